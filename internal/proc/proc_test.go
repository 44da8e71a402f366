package proc

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestProcReads(t *testing.T) {
	t.Parallel()
	cpu, err := parseStat("7 (a) b (c) S 1 7 7 0 -1 4194560 100 200 0 0 150 50 25 75 20 0 1 0 100 0 0\n")
	require.NoError(t, err)
	require.Equal(t, 3*time.Second, cpu)
	_, err = parseStat("7 (a) S 1")
	require.ErrorContains(t, err, "too short")
	n, err := field("VmPeak:\t 9 kB\nVmHWM:\t  1234 kB\n", "VmHWM:")
	require.NoError(t, err)
	require.EqualValues(t, 1234, n)
	_, err = field("VmPeak: 9 kB\n", "VmHWM:")
	require.Error(t, err)
	n, err = parseWire("Inter-|\n face |bytes\n    lo: 4711 5 0 0 0 0 0 0 4711 5\n  eth0: 1 1\n")
	require.NoError(t, err)
	require.EqualValues(t, 4711, n)
	_, err = parseWire("  eth0: 1 1\n")
	require.Error(t, err)
}

func TestPeakRests(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "read x")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() { require.NoError(t, cmd.Wait()) }()
	defer func() { _, _ = in.Write([]byte("\n")) }()
	require.NoError(t, Rest(cmd.Process.Pid))
	u, err := Of(cmd.Process.Pid)
	require.NoError(t, err)
	require.Positive(t, u.Peak)
	require.Contains(t, Family(os.Getpid()), cmd.Process.Pid)
}
