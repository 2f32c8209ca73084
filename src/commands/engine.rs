//! `--for ENGINE`: what an engine would not load, told before a run or of what is there.

use anyhow::bail;
use reweight_quant::engines::{Engine, Finding, Severity};

use crate::failure::Problem;
use crate::ui::{Ui, escape};

/// The engine's own name.
const fn name(engine: Engine) -> &'static str {
    match engine {
        Engine::Vllm => "vLLM",
        Engine::LlamaCpp => "llama.cpp",
        Engine::Transformers => "transformers",
    }
}

/// Whether a model with these findings loads.
pub(super) fn loads(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.severity != Severity::Refused)
}

/// A finding as a line: what is wrong, where, and who says so.
pub(super) fn line(finding: &Finding) -> String {
    let names = &finding.names;
    let places = match &names[..] {
        [] => String::new(),
        [one] => format!(": {}", escape(one)),
        [first, ..] => format!(": {} and {} more", escape(first), names.len() - 1),
    };
    format!("{}{places} [{}]", finding.what, finding.source)
}

/// Stops a run whose target would not load, and warns of what else is found.
pub(super) fn require(findings: &[Finding], ui: &Ui) -> anyhow::Result<()> {
    for finding in findings.iter().filter(|finding| finding.severity != Severity::Refused) {
        let how = if finding.severity == Severity::Slow { "in slower kernels" } else { "with a condition" };
        ui.warn(&format!("{} would load it {how}: {}", name(finding.engine), line(finding)));
    }
    let refused: Vec<&Finding> = findings.iter().filter(|finding| finding.severity == Severity::Refused).collect();
    let Some(first) = refused.first() else { return Ok(()) };
    let lines: Vec<String> = refused.iter().map(|finding| line(finding)).collect();
    let problem = Problem::usage(format!("{} would not load the target: {}", name(first.engine), lines.join("; ")));
    bail!(problem.hint("another --scheme or --to may do; without --for it is written all the same"));
}

/// Prints what was found of a model that is there.
pub(super) fn show(engine: Engine, findings: &[Finding], ui: &Ui) -> anyhow::Result<()> {
    let verdict = if loads(findings) { "loads it, as far as its limits tell" } else { "does not load it" };
    ui.print(&format!("\n{} {verdict}", name(engine)))?;
    for finding in findings {
        let severity = match finding.severity {
            Severity::Refused => "refused",
            Severity::Needs => "needs",
            Severity::Slow => "slow",
        };
        ui.print(&format!("  {severity}: {}", line(finding)))?;
    }
    Ok(())
}
