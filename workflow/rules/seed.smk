# Choose the first frames to label: training, validation and test set.


rule seed:
    input:
        frames=rules.forcefield.output.frames,
    output:
        selected=ROOT + "/{system}/seed/selected.parquet",
    params:
        campaign=CAMPAIGN.file,
    conda:
        "../../envs/openmm.yaml"
    shell:
        "python {SCRIPTS:q}/seed.py --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --frames {input.frames:q} --selected {output.selected:q}"
