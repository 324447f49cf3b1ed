# What the model knows: intervals of atomic energies, margins calibrated on held-out labels.


rule domain:
    input:
        model=rules.train.output.model,
        labels=labels_before,
        teacher=rules.forcefield.output.frames,
    output:
        domain=ROOT + "/{system}/gen{gen}/domain.json",
    params:
        campaign=CAMPAIGN.file,
        number=lambda wc: int(wc.gen),
    conda:
        "../../envs/mace.yaml"
    shell:
        "python {SCRIPTS:q}/domain.py --campaign {params.campaign:q} --system {wildcards.system}"
        " --generation {params.number} --threads {threads} --model {input.model:q}"
        " --labels {input.labels:q} --teacher {input.teacher:q} --domain {output.domain:q}"
