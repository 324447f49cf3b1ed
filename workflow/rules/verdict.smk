# The one checkpoint: whether there is another generation. A leaf: training does not wait for it.


checkpoint verdict:
    input:
        traces=rules.explore.output.traces,
        summary=rules.explore.output.summary,
        labels=labels_with,
    output:
        verdict="<campaign>/{system}/gen{gen}/verdict.json",
    log:
        "<campaign>/{system}/logs/gen{gen}-verdict.log",
    conda:
        "../../envs/openmm.yaml"
    params:
        program=SCRIPTS / "verdict.py",
        campaign=CAMPAIGN.file,
        number=lambda wc: int(wc.gen),
    shell:
        "python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --generation {params.number} --threads {threads} --log {log:q} --traces {input.traces:q}"
        " --summary {input.summary:q} --labels {input.labels:q} --verdict {output.verdict:q}"
