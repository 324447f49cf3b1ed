# Sample with the classical force field, through OpenMM.


rule forcefield:
    input:
        lambda wc: [path for path in CAMPAIGN.systems[wc.system].system.forcefield if path.exists()],
    output:
        frames=ROOT + "/{system}/teacher/frames.parquet",
        counts=ROOT + "/{system}/teacher/counts.json",
    params:
        campaign=CAMPAIGN.file,
    conda:
        "../../envs/openmm.yaml"
    shell:
        "python {SCRIPTS:q}/forcefield.py --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --frames {output.frames:q} --counts {output.counts:q}"
