package relayd

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/config"
	"forebay/flush/target/drivers"
	"forebay/proto"
)

// Each row of the table of drivers leads to what opens such a target, and each type of the configuration has a row.
func TestDriversAreFoundByTheTable(t *testing.T) {
	t.Parallel()
	for _, r := range drivers.Table {
		require.NotNil(t, opener(r.Driver), "%+v", r)
		require.Equal(t, r.Driver, drivers.Of(r.Type), "one driver for a type")
	}
	for _, name := range []string{config.TypeDir, config.TypeS3, config.TypeSFTP, config.TypeRclone, config.TypeProcess, config.TypeSerial} {
		require.NotEmpty(t, drivers.Of(name), name)
	}
	_, err := OpenTarget(config.Target{Type: "tape"}, Opening{})
	require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
	require.ErrorContains(t, err, "target type tape is not known")
}
