# Make the report page of a finished campaign. Rule verdict makes it after each generation, too.


rule report:
    input:
        verdicts=lambda wc: unroll(wc.system)(wc),
        shown=shown,
        certificate=certificate_of,
    output:
        page=report(
            "<campaign>/{system}/report.html",
            caption="../report/page.rst",
            category="Result",
            labels={"system": "{system}", "what": "page"},
        ),
    log:
        "<campaign>/{system}/logs/report.log",
    conda:
        "../../envs/openmm.yaml"
    params:
        program=SCRIPTS / "report.py",
        campaign=CAMPAIGN.file,
    shell:
        "exec python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --log {log:q} --verdicts {input.verdicts:q} --page {output.page:q}"
