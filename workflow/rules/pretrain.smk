# Teach MACE the walls of the potential.


rule pretrain:
    input:
        frames=rules.forcefield.output.frames,
    output:
        model=ROOT + "/{system}/teacher/pretrained.model",
        metrics=ROOT + "/{system}/teacher/pretrained.json",
    params:
        campaign=CAMPAIGN.file,
    threads: lambda wc: SETTINGS[wc.system].resources.train_cores
    conda:
        "../../envs/mace.yaml"
    shell:
        "python {SCRIPTS:q}/pretrain.py --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --frames {input.frames:q} --model {output.model:q}"
        " --metrics {output.metrics:q}"
