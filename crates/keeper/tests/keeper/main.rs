//! Keepers and their containers on a real kernel. Run as root; everything happens in a mount and a
//! network namespace of this program's own.

#[cfg(test)]
mod harness;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod pod;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod sandbox;

fn main() -> std::process::ExitCode {
    harness::main()
}
