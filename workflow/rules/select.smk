# Select the candidates worth a label. The model that explored evaluates all of them once more.


rule select:
    input:
        model=rules.train.output.model,
        domain=rules.domain.output.domain,
        candidates=rules.explore.output.candidates,
        reservoir=rules.explore.output.reservoir,
        traces=rules.explore.output.traces,
        summary=rules.explore.output.summary,
        labels=labels_before,
        committee=committee,
        opinions=opinions_before,
    output:
        selected="<campaign>/{system}/gen{gen}/selected.parquet",
        fates=report(
            "<campaign>/{system}/gen{gen}/selection.json",
            caption="../report/selection.rst",
            category="Generations",
            labels={"system": "{system}", "generation": "{gen}", "what": "candidates"},
        ),
    log:
        "<campaign>/{system}/logs/gen{gen}-select.log",
    conda:
        "../../envs/mace.yaml"
    resources:
        runtime=sized("select", "runtime_min"),
        mem_mb=sized("select", "memory_mb"),
        gpu=gpus,
    params:
        program=SCRIPTS / "select_frames.py",
        campaign=CAMPAIGN.file,
        number=lambda wc: int(wc.gen),
        opinions=lambda wc, input: (
            f"--opinions {quote(input.opinions[0])}" if input.opinions else ""
        ),
    shell:
        "exec python {params.program:q} --campaign {params.campaign:q}"
        " --system {wildcards.system} --generation {params.number} --threads {threads} --log {log:q}"
        " --model {input.model:q} --domain {input.domain:q}"
        " --candidates {input.candidates:q} --reservoir {input.reservoir:q} --traces {input.traces:q} --summary {input.summary:q}"
        " --labels {input.labels:q} {params.opinions} --selected {output.selected:q} --fates {output.fates:q}"
