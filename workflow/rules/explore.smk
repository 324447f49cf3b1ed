# Molecular dynamics with the model, every step watched by the CLI. Resumes after a kill.


rule explore:
    input:
        model=rules.train.output.model,
        domain=rules.domain.output.domain,
        labels=labels_before,
    output:
        traces=ROOT + "/{system}/gen{gen}/traces.parquet",
        candidates=ROOT + "/{system}/gen{gen}/candidates.parquet",
        summary=ROOT + "/{system}/gen{gen}/exploration.json",
    params:
        campaign=CAMPAIGN.file,
        number=lambda wc: int(wc.gen),
        seconds=budgeted_seconds,
    threads: lambda wc: SETTINGS[wc.system].resources.explore_cores
    retries: attempts(3)
    conda:
        "../../envs/mace.yaml"
    shell:
        "python {SCRIPTS:q}/explore.py --campaign {params.campaign:q} --system {wildcards.system}"
        " --generation {params.number} --threads {threads} --seconds {params.seconds}"
        " --model {input.model:q} --domain {input.domain:q} --labels {input.labels:q}"
        " --traces {output.traces:q} --candidates {output.candidates:q}"
        " --summary {output.summary:q}"
