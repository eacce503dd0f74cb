package trial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// version is one that can be installed: charts, and images that bear the version that these ask for.
type version struct {
	// name is for people.
	name string
	// charts is the folder of both charts.
	charts string
	// number is the charts' appVersion, which the images are tagged with.
	number string
	files  []string
}

func (v version) images() []string { return v.files }

// prepare makes images of what is to be installed, and of what is to be upgraded from.
func (t *trial) prepare(ctx context.Context) error {
	var err error
	if t.current, err = makeVersion(ctx, t.Root, filepath.Join(t.Dir, "images"), "this commit", "", t.say); err != nil {
		return err
	}
	from := t.From
	if from == "" {
		// Fails where no tag is: then there is none.
		if out, err := exec.CommandContext(ctx, "git", "-C", t.Root, "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^").Output(); err == nil {
			from = strings.TrimSpace(string(out))
		}
	}
	if from == "" {
		t.old, err = t.sameAsOld(ctx)
		return err
	}
	checkout := filepath.Join(t.Dir, "from")
	for _, args := range [][]string{
		{"clone", "--quiet", "--shared", "--no-checkout", t.Root, checkout},
		{"-C", checkout, "checkout", "--quiet", "--detach", from},
	} {
		if out, err := exec.CommandContext(ctx, "git", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	// The bill of materials is made by the same program.
	if err := os.Symlink(t.Bin, filepath.Join(checkout, "bin")); err != nil {
		return err
	}
	t.old, err = makeVersion(ctx, checkout, filepath.Join(t.Dir, "images-from"), from, older, t.say)
	return err
}

// older is the version of what is upgraded from.
const older = "0.0.1"

// sameAsOld is this same chart with the number of an older version, for want of one that was released.
func (t *trial) sameAsOld(ctx context.Context) (version, error) {
	return makeVersion(ctx, t.Root, filepath.Join(t.Dir, "images-from"), "this same chart and program under the number of an older version: there is no tag before this commit", older, t.say)
}

var appVersion = regexp.MustCompile(`(?m)^appVersion: "?([^"\n]*)"?$`)

// makeVersion makes images from a checkout. Where a number is given, charts are copied and bear that.
func makeVersion(ctx context.Context, root, out, name, number string, say func(string, ...any)) (version, error) {
	v := version{name: name, charts: filepath.Join(root, "charts"), number: number}
	if number != "" {
		v.charts = filepath.Join(out, "charts")
	}
	for _, chart := range []string{"cetrus", "cetrus-manager"} {
		text, err := os.ReadFile(filepath.Join(root, "charts", chart, "Chart.yaml"))
		if err != nil {
			return v, err
		}
		found := appVersion.FindSubmatch(text)
		if found == nil {
			return v, fmt.Errorf("charts/%s says no appVersion", chart)
		}
		if number == "" {
			v.number = string(found[1])
			continue
		}
		if err := os.CopyFS(filepath.Join(v.charts, chart), os.DirFS(filepath.Join(root, "charts", chart))); err != nil {
			return v, err
		}
		text = regexp.MustCompile(`(?m)^(appVersion|version): .*$`).ReplaceAll(text, []byte(`$1: "`+number+`"`))
		if err := os.WriteFile(filepath.Join(v.charts, chart, "Chart.yaml"), text, 0o644); err != nil {
			return v, err
		}
	}
	if v.number == "" {
		return v, errors.New("the charts say no appVersion")
	}
	say("making the images of %s (%s)", v.number, name)
	cmd := exec.CommandContext(ctx, filepath.Join(root, "tools", "images.sh"), "--architectures", runtime.GOARCH, "cetrus", "cetrus-manager")
	cmd.Env = append(os.Environ(), "CETRUS_VERSION="+v.number, "CETRUS_OUT="+out)
	// What the script starts goes along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if said, err := cmd.CombinedOutput(); err != nil {
		return v, fmt.Errorf("making the images of %s: %w: %s", name, err, said)
	}
	v.files = []string{filepath.Join(out, "cetrus.tar"), filepath.Join(out, "cetrus-manager.tar")}
	return v, nil
}
