# The one checkpoint: whether there is another generation. A leaf: training does not wait for it.


checkpoint verdict:
    input:
        traces=rules.explore.output.traces,
        summary=rules.explore.output.summary,
        labels=labels_with,
    output:
        verdict=ROOT + "/{system}/gen{gen}/verdict.json",
    params:
        campaign=CAMPAIGN.file,
        number=lambda wc: int(wc.gen),
    conda:
        "../../envs/openmm.yaml"
    shell:
        "python {SCRIPTS:q}/verdict.py --campaign {params.campaign:q} --system {wildcards.system}"
        " --generation {params.number} --threads {threads} --traces {input.traces:q}"
        " --summary {input.summary:q} --labels {input.labels:q} --verdict {output.verdict:q}"
