//! What made the figures.

use std::fmt;
use std::process::Command;

use oriel_ec::Isa;
use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    kernel: String,
    compiler: String,
    command: String,
    /// What the codec chooses when it is not told.
    isa: &'static str,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let unknown = || "unknown".to_owned();
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpu.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let numbers =
            ["cpu family", "model\t", "stepping"].map(|name| field(name).unwrap_or_else(unknown));
        let [family, model, stepping] = numbers;
        let name = field("model name").unwrap_or_else(unknown);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease");
        let compiler = Command::new("rustc").arg("--version").output();
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        Self {
            cpu: format!("{name} (family {family} model {model} stepping {stepping})"),
            kernel: kernel.map_or_else(|_| unknown(), |text| text.trim().to_owned()),
            compiler: compiler.map_or_else(
                |_| unknown(),
                |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            ),
            command: format!("oriel-perf {}", arguments.join(" ")),
            isa: Isa::best().name(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, Linux {}, {}, best instruction set {}\n{}",
            self.cpu, self.kernel, self.compiler, self.isa, self.command
        )
    }
}
