// A frontend that reaches for what it was not given, for the demos: `# syntax=` hands the whole build to it, so it stands for
// any frontend that somebody else wrote. It asks the client for files beyond the context in the ways that the protocol has,
// tries what its own container can see, and writes what it got into /frontend of the image.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path"
	"strings"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/gateway/grpcclient"
	"github.com/moby/buildkit/util/appcontext"
)

func main() {
	if err := grpcclient.RunFromEnvironment(appcontext.Context(), build); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func build(ctx context.Context, c client.Client) (*client.Result, error) {
	opts := c.BuildOpts().Opts
	key, service := opts["build-arg:KEY"], opts["build-arg:SERVICE"]
	home := path.Dir(path.Dir(key))
	up := strings.Repeat("../", 16)

	var report strings.Builder
	say := func(what, answer string) { fmt.Fprintf(&report, "%s: %s\n", what, answer) }

	ask := func(what, name, file string, options ...llb.LocalOption) {
		options = append(options, llb.SessionID(c.BuildOpts().SessionID), llb.SharedKeyHint("reaching-"+what))
		say(what, read(ctx, c, llb.Local(name, options...), file))
	}
	// The counter-check: a frontend that gets nothing at all would prove nothing.
	ask("context", "context", "own.txt")
	ask("context-link", "context", "link-to-key", llb.FollowPaths([]string{"link-to-key"}))
	ask("context-parent", "context", key, llb.FollowPaths([]string{up + key, key}))
	ask("context-pattern", "context", key, llb.IncludePatterns([]string{key, up + key, "../**", "/**/id_demo"}))
	ask("home", home, path.Base(path.Dir(key))+"/"+path.Base(key))
	ask("root", "/", key)

	if text, err := os.ReadFile(key); err == nil && len(text) > 0 {
		say("own-container", "got")
	} else {
		say("own-container", "nothing")
	}
	say("network", dial(service))

	st := llb.Scratch().File(llb.Mkfile("/frontend", 0o644, []byte(report.String())))
	def, err := st.Marshal(ctx)
	if err != nil {
		return nil, err
	}
	return c.Solve(ctx, client.SolveRequest{Definition: def.ToPB()})
}

// read asks for a local directory and tells whether the file came along.
func read(ctx context.Context, c client.Client, st llb.State, file string) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	def, err := st.Marshal(ctx)
	if err != nil {
		return "nothing"
	}
	res, err := c.Solve(ctx, client.SolveRequest{Definition: def.ToPB(), Evaluate: true})
	if err != nil {
		return "refused"
	}
	ref, err := res.SingleRef()
	if err != nil || ref == nil {
		return "nothing"
	}
	if text, err := ref.ReadFile(ctx, client.ReadRequest{Filename: file}); err == nil && len(text) > 0 {
		return "got"
	}
	return "nothing"
}

func dial(service string) string {
	conn, err := net.DialTimeout("tcp", service, 30*time.Second)
	if err != nil {
		return "nothing"
	}
	conn.Close()
	return "reached"
}
