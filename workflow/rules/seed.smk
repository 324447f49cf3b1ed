# Choose the first frames to label: training, validation and test set.


rule seed:
    input:
        frames=rules.forcefield.output.frames,
        imported=imported_labels,
    output:
        selected="<campaign>/{system}/seed/selected.parquet",
    log:
        "<campaign>/{system}/logs/seed.log",
    conda:
        "../../envs/openmm.yaml"
    params:
        program=SCRIPTS / "seed.py",
        campaign=CAMPAIGN.file,
        imported=lambda wc, input: (
            f"--imported {input.imported}" if input.imported else ""
        ),
    shell:
        "exec python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --log {log:q} --frames {input.frames:q} {params.imported} --selected {output.selected:q}"
