// Package deploy holds what an installation needs beside the binary: sample configurations, systemd units with drop-ins, and
// the users. It has no code; its tests parse every sample and score the units, so that they stay true.
package deploy
