# Choose the candidates worth a label.


rule select:
    input:
        candidates=rules.explore.output.candidates,
        traces=rules.explore.output.traces,
        summary=rules.explore.output.summary,
        labels=labels_before,
    output:
        selected=ROOT + "/{system}/gen{gen}/selected.parquet",
        fates=ROOT + "/{system}/gen{gen}/selection.json",
    params:
        campaign=CAMPAIGN.file,
        number=lambda wc: int(wc.gen),
    conda:
        "../../envs/openmm.yaml"
    shell:
        "python {SCRIPTS:q}/select_frames.py --campaign {params.campaign:q}"
        " --system {wildcards.system} --generation {params.number} --threads {threads}"
        " --candidates {input.candidates:q} --traces {input.traces:q} --summary {input.summary:q}"
        " --labels {input.labels:q} --selected {output.selected:q} --fates {output.fates:q}"
