//! Canaries again, and a step that is root and has this machine's own shell, `cat`, `grep` and perl to get at them with.

use std::path::PathBuf;
use std::process::Command;

use crate::canaries::{Aviary, SONG};
use crate::host_tools::bring;
use crate::ktl::is_root;
use crate::private::Private;

/// Reads a list of canaries, as the static program does, and has a way for each way that the list knows.
const SCRIPT: &str = r#"
reach() {
    case $1 in
    file)
        [ -e "$2" ] || return 1
        cat "$2" >/dev/null; read=$?
        printf ' was heard' >>"$2" && return 0
        return $read;;
    look) cat "$2" >/dev/null;;
    contains) grep -aq SONG "$2";;
    lists) grep -aq -- "${2#* }" "${2%% *}";;
    signal) kill -0 "$2";;
    tcp) address=${2%:*}; address=${address#[}; (exec 3<>"/dev/tcp/${address%]}/${2##*:}");;
    udp) (exec 3<>"/dev/udp/${2%:*}/${2##*:}" && printf hello >&3 && printf hello >&3);;
    unix | abstract | datagram)
        perl -e '
            my ($way, $name) = @ARGV;
            my $address = pack("S a*", 1, $way eq "unix" ? $name : "\0$name");
            socket(my $socket, 1, $way eq "datagram" ? 2 : 1, 0) or exit 1;
            my $done = $way eq "datagram" ? send($socket, "hello", 0, $address) : connect($socket, $address);
            exit($done ? 0 : 1)' "$1" "$2";;
    *) echo "no such way: $1"; exit 1;;
    esac
}
while IFS=$'\t' read -r name way target; do
    if reach "$way" "$target" 2>/dev/null; then echo "REACHED <$name>"; else echo "missed <$name>"; fi
done <canaries
"#;

#[test]
fn no_shell_of_a_private_builder_reaches_a_canary() {
    let tools: Vec<PathBuf> =
        ["bash", "cat", "grep", "perl"].into_iter().filter_map(xtask::tools::on_path).collect();
    if !is_root("no_shell_of_a_private_builder_reaches_a_canary") || tools.len() < 4 {
        return eprintln!("skipped: needs root, bash, cat, grep and perl");
    }
    let private =
        Private::bare("FROM scratch\nCOPY root canaries script /\nRUN [\"/bin/bash\", \"/script\"]\n");
    let world = private.world();
    bring(&world.path("ctx/root"), &tools);
    world.write("ctx/script", SCRIPT.replace("SONG", SONG));
    let aviary = Aviary::new(&world.path("home"), &world.path("canaries"), &world.path("s"), "default");
    world.write("ctx/canaries", aviary.list());
    let ran = private.build(&["--hermetic", "--builder", "jail://"]).ok();
    aviary.assert_reached(&ran, |_| false);
    // The controls: what a plain daemon shares with its steps, and the host itself.
    aviary.assert_reached(&private.build(&[]).ok(), |canary| canary.shared);
    let mut host = Command::new("bash");
    host.arg("script").current_dir(world.path("ctx"));
    aviary.assert_reached(&world.run(&mut host).ok(), |_| true);
}
