# Choose the first frames to label: training, validation and test set.


rule seed:
    input:
        frames=rules.forcefield.output.frames,
    output:
        selected="<campaign>/{system}/seed/selected.parquet",
    log:
        "<campaign>/{system}/logs/seed.log",
    conda:
        "../../envs/openmm.yaml"
    params:
        program=SCRIPTS / "seed.py",
        campaign=CAMPAIGN.file,
    shell:
        "exec python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --log {log:q} --frames {input.frames:q} --selected {output.selected:q}"
