# Ask a second, cheaper Hamiltonian about the random frames, beside their labels (audit.second_opinion).


rule second_opinion:
    input:
        model=rules.train.output.model,
        reservoir=rules.explore.output.reservoir,
        labels=labels_before,
    output:
        opinions="<campaign>/{system}/gen{gen}/second_opinion.parquet",
    log:
        "<campaign>/{system}/logs/gen{gen}-second_opinion.log",
    conda:
        "../../envs/mace.yaml"
    resources:
        runtime=sized("second_opinion", "runtime_min"),
        mem_mb=sized("second_opinion", "memory_mb"),
    params:
        program=SCRIPTS / "second_opinion.py",
        campaign=CAMPAIGN.file,
        number=lambda wc: int(wc.gen),
        seconds=budgeted_seconds,
    shell:
        "exec python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --generation {params.number} --threads {threads} --log {log:q} --seconds {params.seconds}"
        " --model {input.model:q} --reservoir {input.reservoir:q} --labels {input.labels:q}"
        " --opinions {output.opinions:q}"
