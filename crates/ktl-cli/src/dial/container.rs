//! A buildkitd in a container: the program that runs containers starts `buildctl dial-stdio` beside it.
//!
//! Commands follow moby/buildkit `client/connhelper/{dockercontainer,podmancontainer,nerdctlcontainer,kubepod}`.

use std::os::unix::net::UnixStream;
use std::process::Command;

use super::program::{self, Program, ProgramError};
use crate::builder::Container;
use crate::exit::Exit;
use crate::failure::Failure;

pub fn connect(container: &Container) -> Result<(UnixStream, Program), Failure> {
    program::start(command(container)).map_err(|error| {
        let failure =
            Failure::new(Exit::Builder, format!("cannot reach the builder at {container}: {error}"));
        match error {
            ProgramError::Start { program, .. } => {
                failure.hint(format!("{program} must be on PATH: it is what reaches into the container."))
            }
            ProgramError::Silent => {
                failure.hint("buildctl in the container waits for a buildkitd that does not answer.")
            }
            _ => failure.hint("The container must run, and hold a buildkitd and its buildctl, as moby/buildkit's image does."),
        }
    })
}

fn command(container: &Container) -> Command {
    let mut argv: Vec<String> = Vec::new();
    let option = |name: &str, value: &Option<String>| {
        value.iter().map(|value| format!("--{name}={value}")).collect::<Vec<_>>()
    };
    let program = match container {
        Container::Docker { name, context } => {
            argv.extend(option("context", context));
            argv.extend(["exec", "-i", name].map(str::to_owned));
            "docker"
        }
        Container::Podman { name } => {
            argv.extend(["exec", "-i", name].map(str::to_owned));
            "podman"
        }
        Container::Nerdctl { name, namespace } => {
            argv.extend(option("namespace", namespace));
            argv.extend(["exec", "-i", name].map(str::to_owned));
            "nerdctl"
        }
        Container::Kubernetes { pod, context, namespace, container } => {
            argv.extend(option("context", context));
            argv.extend(option("namespace", namespace));
            argv.push("exec".to_owned());
            argv.extend(option("container", container));
            argv.extend(["-i", pod, "--"].map(str::to_owned));
            "kubectl"
        }
    };
    let mut command = Command::new(program);
    command.args(argv).args(["buildctl", "dial-stdio"]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Address;

    #[test]
    fn each_program_is_asked_in_its_own_words() {
        for (address, expected) in [
            ("docker-container://b0", "docker exec -i b0 buildctl dial-stdio"),
            ("docker-container://b0?context=far", "docker --context=far exec -i b0 buildctl dial-stdio"),
            ("podman-container://b0", "podman exec -i b0 buildctl dial-stdio"),
            ("nerdctl-container://b0?namespace=n", "nerdctl --namespace=n exec -i b0 buildctl dial-stdio"),
            ("kube-pod://p", "kubectl exec -i p -- buildctl dial-stdio"),
            (
                "kube-pod://p?context=c&namespace=n&container=d",
                "kubectl --context=c --namespace=n exec --container=d -i p -- buildctl dial-stdio",
            ),
        ] {
            let Ok(Address::Container(container)) = Address::parse(address) else { panic!("{address}") };
            let command = command(&container);
            let line: Vec<_> = std::iter::once(command.get_program())
                .chain(command.get_args())
                .map(|word| word.to_string_lossy())
                .collect();
            assert_eq!(line.join(" "), expected);
        }
    }
}
