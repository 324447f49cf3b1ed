# The page a person looks at.


rule report:
    input:
        verdicts=lambda wc: unroll(wc.system)(wc),
    output:
        page=ROOT + "/{system}/report.html",
    params:
        campaign=CAMPAIGN.file,
    conda:
        "../../envs/openmm.yaml"
    shell:
        "python {SCRIPTS:q}/report.py --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --verdicts {input.verdicts:q} --page {output.page:q}"
