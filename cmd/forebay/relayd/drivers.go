package relayd

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rs/zerolog"

	"forebay/config"
	"forebay/flush/target"
	"forebay/flush/target/process"
	"forebay/flush/target/process/child"
	"forebay/flush/target/process/line"
	"forebay/proto"
)

// rcloneDriver is the program that a target of type rclone is reached by.
const rcloneDriver = "forebay-rclone"

// passedOn are the variables of the environment that a driver process gets. Secrets of the relay are none of its business.
var passedOn = [...]string{"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}

// openDriver opens a target that is reached through a driver of its own.
func openDriver(t config.Target, o Opening) (target.Target, error) {
	d := t.Driver
	cfg := process.Config{Name: t.Name, Relay: o.Software, Prefix: o.Prefix, Expect: o.Marked, Writes: o.Write, Partial: d.Partial,
		Timeout: d.Timeout.Std(), Line: t.Type == config.TypeSerial}
	deps := process.Deps{Now: o.Now, Settings: func() (map[string]string, error) { return driverSettings(t) }}
	if t.Type == config.TypeSerial {
		deps.Start = func(context.Context) (process.Stream, error) { return line.Open(d.Device, d.Baud) }
		return process.Open(cfg, deps)
	}
	log := o.Log.With().Str("target", t.Name).Str("prefix", o.Prefix).Logger()
	deps.Start = func(context.Context) (process.Stream, error) {
		command, err := driverCommand(t)
		if err != nil {
			return nil, err
		}
		return child.Start(child.Config{Command: command, Env: driverEnv(o.Getenv), Memory: int64(d.Memory)},
			child.Deps{Now: o.Now, Say: func(line string) { sayFor(log, line) }})
	}
	return process.Open(cfg, deps)
}

// sayFor logs what a driver says on its standard error.
func sayFor(log zerolog.Logger, line string) { log.Warn().Msg("driver: " + line) }

// driverSettings is what the driver is told: files with secrets are read anew each time.
func driverSettings(t config.Target) (map[string]string, error) {
	all := map[string]string{}
	for k, v := range t.Driver.Settings {
		all[k] = v
	}
	var err error
	for k, path := range t.Driver.Files {
		all[k] = strings.TrimRight(string(readSecret(t, path, &err)), "\r\n")
	}
	if t.Type == config.TypeRclone {
		all["remote"] = t.Driver.Remote
	}
	return all, err
}

// driverCommand is the program and its arguments. rclone's driver is looked for beside this program, then in the PATH.
func driverCommand(t config.Target) ([]string, error) {
	if len(t.Driver.Command) > 0 {
		return t.Driver.Command, nil
	}
	var beside string
	if self, err := os.Executable(); err == nil {
		beside = filepath.Join(filepath.Dir(self), rcloneDriver)
		if _, err := os.Stat(beside); err == nil {
			return []string{beside}, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, proto.Errorf(proto.ClassTransient, "target %s: %w", t.Name, err)
		}
	}
	found, err := exec.LookPath(rcloneDriver)
	if err != nil {
		return nil, proto.Errorf(proto.ClassTransient, "target %s: there is no %s beside this program (%s) nor in the PATH: install it, or name it with command", t.Name, rcloneDriver, beside)
	}
	return []string{found}, nil
}

func driverEnv(getenv func(string) string) (env []string) {
	for _, name := range passedOn {
		if v := getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}
