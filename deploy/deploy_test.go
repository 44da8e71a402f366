package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	_ "time/tzdata" // the samples name a zone

	"github.com/stretchr/testify/require"

	"forebay/config"
)

func TestSamplesParse(t *testing.T) {
	t.Parallel()
	relay, err := config.LoadRelay("relay.yaml")
	require.NoError(t, err)
	agent, err := config.LoadAgent("agent.yaml")
	require.NoError(t, err)
	require.Empty(t, config.CheckTogether(relay, agent))
	require.Len(t, relay.Links, 1)
	require.Equal(t, agent.Cluster+"/"+agent.Datasets[0].Name, relay.Links[0].From.String(), "the samples belong together")
}

// TestCommentedKeysParse takes the comment signs off the keys that the samples show as defaults.
func TestCommentedKeysParse(t *testing.T) {
	t.Parallel()
	commented := regexp.MustCompile(`(?m)^( *)# ([a-z_]+: )`)
	text := func(name string, without ...string) []byte {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		s := string(b)
		for _, w := range without {
			require.Contains(t, s, w)
			s = strings.ReplaceAll(s, w, "#")
		}
		return []byte(commented.ReplaceAllString(s, "$1$2"))
	}
	// The other form of nats is an alternative to the one above it.
	relay, err := config.ParseRelay(text("relay.yaml", "# nats:"), "relay.yaml")
	require.NoError(t, err)
	plain, err := config.LoadRelay("relay.yaml")
	require.NoError(t, err)
	require.True(t, relay.Insecure)
	relay.Insecure, relay.Links[0].Given, plain.Links[0].Given = false, nil, nil
	require.Equal(t, plain, relay, "the commented values are the defaults")
	_, err = config.ParseAgent(text("agent.yaml"), "agent.yaml")
	require.NoError(t, err)
}

// TestPathsDropInFitsSample: what the sample names is what the drop-in opens.
func TestPathsDropInFitsSample(t *testing.T) {
	t.Parallel()
	relay, err := config.LoadRelay("relay.yaml")
	require.NoError(t, err)
	dropIn, err := os.ReadFile("drop-in/relay-paths.conf")
	require.NoError(t, err)
	for _, path := range relay.Cache.Stores {
		require.Contains(t, string(dropIn), "-"+path)
	}
	for _, target := range relay.Targets {
		require.Contains(t, string(dropIn), "-"+target.Path)
	}
}

func analyze(t *testing.T) string {
	t.Helper()
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed (package systemd): the units are not checked")
	}
	return tool
}

// install copies a unit, with drop-ins, to where systemd-analyze takes both into account.
func install(t *testing.T, unit string, dropIns ...string) string {
	t.Helper()
	dir := t.TempDir()
	text, err := os.ReadFile(unit)
	require.NoError(t, err)
	// The binary is not installed where tests run, and neither is its documentation.
	changed := strings.ReplaceAll(string(text), "/usr/bin/forebay ", "/bin/true ")
	path := filepath.Join(dir, unit)
	require.NoError(t, os.WriteFile(path, []byte(changed), 0o644))
	for _, d := range dropIns {
		text, err := os.ReadFile(d)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(path+".d", 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(path+".d", filepath.Base(d)), text, 0o644))
	}
	return path
}

var exposure = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)

func TestUnitScores(t *testing.T) {
	t.Parallel()
	tool := analyze(t)
	for _, c := range []struct {
		unit    string
		dropIns []string
		most    float64
	}{
		{"forebay-relay.service", nil, 1.9},
		{"forebay-relay.service", []string{"drop-in/relay-paths.conf"}, 1.9},
		{"forebay-relay.service", []string{"drop-in/relay-paths.conf", "drop-in/relay-chown.conf"}, 2.5},
		{"forebay-agent.service", nil, 2.0},
		{"forebay-agent.service", []string{"drop-in/agent-fanotify.conf"}, 2.5},
	} {
		out, err := exec.Command(tool, "security", "--offline=true", "--no-pager", install(t, c.unit, c.dropIns...)).CombinedOutput()
		if err != nil && strings.Contains(string(out), "unrecognized option") {
			t.Skip("systemd-analyze is too old for --offline (systemd 250): the units are not scored")
		}
		found := exposure.FindSubmatch(out)
		require.NotNil(t, found, "%s: %v\n%s", c.unit, err, out)
		score, err := strconv.ParseFloat(string(found[1]), 64)
		require.NoError(t, err)
		require.LessOrEqual(t, score, c.most, "%s with %v", c.unit, c.dropIns)
	}
}

// TestUnitsAreUnderstood: an unknown or misspelt directive is only a warning to systemd, and then protects nothing.
func TestUnitsAreUnderstood(t *testing.T) {
	t.Parallel()
	tool := analyze(t)
	for unit, dropIns := range map[string][]string{
		"forebay-relay.service": {"drop-in/relay-paths.conf", "drop-in/relay-chown.conf", "drop-in/relay-serial.conf"},
		"forebay-agent.service": {"drop-in/agent-fanotify.conf"},
	} {
		path := install(t, unit, dropIns...)
		out, _ := exec.Command(tool, "verify", "--man=no", "--recursive-errors=no", path).CombinedOutput()
		for _, line := range strings.Split(string(out), "\n") {
			require.NotContains(t, line, strings.TrimSuffix(unit, ".service"), "systemd-analyze verify")
		}
	}
}

func TestUnitsKeepTheirPromises(t *testing.T) {
	t.Parallel()
	for unit, lines := range map[string][]string{
		"forebay-relay.service": {"Type=notify", "User=forebay", "ExecStartPre=/usr/bin/forebay configcheck /etc/forebay/relay.yaml", "ExecReload=/bin/kill -HUP $MAINPID", "Restart=on-failure", "StartLimitIntervalSec=0", "CapabilityBoundingSet="},
		"forebay-agent.service": {"Type=notify", "User=forebay-agent", "ExecStartPre=/usr/bin/forebay configcheck /etc/forebay/agent.yaml", "ExecReload=/bin/kill -HUP $MAINPID", "Restart=on-failure", "StartLimitIntervalSec=0", "CapabilityBoundingSet=CAP_DAC_READ_SEARCH", "AmbientCapabilities=CAP_DAC_READ_SEARCH"},
	} {
		text, err := os.ReadFile(unit)
		require.NoError(t, err)
		have := strings.Split(string(text), "\n")
		for _, line := range lines {
			require.Contains(t, have, line, unit)
		}
	}
	users, err := os.ReadFile("forebay.sysusers")
	require.NoError(t, err)
	require.Regexp(t, `(?m)^u forebay +- `, string(users))
	require.Regexp(t, `(?m)^u forebay-agent +- `, string(users))
}
