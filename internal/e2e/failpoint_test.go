package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestShippedProgramHasNoFailpoints finds nothing in the program of the variable at which the variant for tests kills itself.
func TestShippedProgramHasNoFailpoints(t *testing.T) {
	t.Parallel()
	const name = "FOREBAY_FAILPOINT"
	source, err := os.ReadFile("../../cmd/forebay/failpoint.go")
	require.NoError(t, err)
	require.Contains(t, string(source), "//go:build failpoint\n")
	require.Contains(t, string(source), name, "else this test looks for a name that nothing has")
	binary, err := os.ReadFile(program)
	require.NoError(t, err)
	require.False(t, strings.Contains(string(binary), name), "the program that ships reads %s", name)
}
