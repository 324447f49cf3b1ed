# Sample with the classical force field, through OpenMM.


rule forcefield:
    input:
        lambda wc: [
            path
            for path in CAMPAIGN.systems[wc.system].system.forcefield.paths
            if path.exists()
        ],
    output:
        frames="<campaign>/{system}/teacher/frames.parquet",
        counts="<campaign>/{system}/teacher/counts.json",
        plot="<campaign>/{system}/teacher/distributions.html",
    log:
        "<campaign>/{system}/logs/forcefield.log",
    conda:
        "../../envs/openmm.yaml"
    params:
        program=SCRIPTS / "forcefield.py",
        campaign=CAMPAIGN.file,
    shell:
        "python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --log {log:q} --frames {output.frames:q} --counts {output.counts:q}"
        " --plot {output.plot:q}"
