package relayd

import (
	"strings"

	"forebay/flush/policy"
	"forebay/proto"
)

// splitKeyValue reads KEY=VALUE and returns the key in full.
func splitKeyValue(s string) (key, value string, err error) {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return "", "", proto.Errorf(proto.ClassPermanent, "%q: want KEY=VALUE", s)
	}
	full, err := policy.FullKey(strings.TrimSpace(key))
	if err != nil {
		return "", "", proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	return full, strings.TrimSpace(value), nil
}
