# Teach MACE the walls of the potential.


rule pretrain:
    input:
        frames=rules.forcefield.output.frames,
    output:
        model="<campaign>/{system}/teacher/pretrained.model",
        metrics="<campaign>/{system}/teacher/pretrained.json",
    log:
        "<campaign>/{system}/logs/pretrain.log",
    conda:
        "../../envs/mace.yaml"
    threads: lambda wc: SETTINGS[wc.system].resources.train_cores
    params:
        program=SCRIPTS / "pretrain.py",
        campaign=CAMPAIGN.file,
    shell:
        "python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --log {log:q} --frames {input.frames:q} --model {output.model:q}"
        " --metrics {output.metrics:q}"
