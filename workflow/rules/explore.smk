# Run molecular dynamics with the model; the CLI index watches every step. Resumes after a kill.


rule explore:
    input:
        model=rules.train.output.model,
        domain=rules.domain.output.domain,
        labels=labels_before,
        committee=committee,
    output:
        traces="<campaign>/{system}/gen{gen}/traces.parquet",
        candidates="<campaign>/{system}/gen{gen}/candidates.parquet",
        reservoir="<campaign>/{system}/gen{gen}/reservoir.parquet",
        summary=report(
            "<campaign>/{system}/gen{gen}/exploration.json",
            caption="../report/exploration.rst",
            category="Generations",
            labels={"system": "{system}", "generation": "{gen}", "what": "replicas"},
        ),
    log:
        "<campaign>/{system}/logs/gen{gen}-explore.log",
    conda:
        "../../envs/mace.yaml"
    threads: lambda wc: SETTINGS[wc.system].resources.explore_cores
    resources:
        runtime=sized("explore", "runtime_min"),
        mem_mb=sized("explore", "memory_mb"),
        gpu=gpus,
    params:
        program=SCRIPTS / "explore.py",
        campaign=CAMPAIGN.file,
        number=lambda wc: int(wc.gen),
        seconds=budgeted_seconds,
    shell:
        "exec python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --generation {params.number} --threads {threads} --log {log:q} --seconds {params.seconds}"
        " --model {input.model:q} --domain {input.domain:q} --labels {input.labels:q}"
        " --traces {output.traces:q} --candidates {output.candidates:q}"
        " --reservoir {output.reservoir:q} --summary {output.summary:q}"
