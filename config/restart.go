package config

import "reflect"

// setting is a key and its value before and after.
type setting struct {
	key      string
	old, new any
}

func changed(all []setting) (keys []string) {
	for _, s := range all {
		if !reflect.DeepEqual(s.old, s.new) {
			keys = append(keys, s.key)
		}
	}
	return keys
}

// RestartKeys returns the keys that differ between two configurations of a relay and that a running one cannot take over:
// they keep their old value until it is started again. Everything else takes effect at a reload.
func RestartKeys(old, new *Relay) []string {
	return changed([]setting{
		{"name", old.Name, new.Name},
		{"data", old.Data, new.Data},
		{"listen", old.Listen, new.Listen},
		{"nats.listen", old.NATS.Listen, new.NATS.Listen},
		{"nats.urls", old.NATS.URLs, new.NATS.URLs},
		{"nats.credentials_file", old.NATS.CredentialsFile, new.NATS.CredentialsFile},
		{"insecure", old.Insecure, new.Insecure},
		{"cache.stores", old.Cache.Stores, new.Cache.Stores},
		{"cache.coding", old.Cache.Coding, new.Cache.Coding},
		{"cache.ballast", old.Cache.Ballast, new.Cache.Ballast},
		{"log.format", old.Log.Format, new.Log.Format},
	})
}

// AgentRestartKeys is RestartKeys for an agent. Nodes, clusters and roots are what an agent announces when it starts.
func AgentRestartKeys(old, new *Agent) []string {
	return changed([]setting{
		{"node", old.Node, new.Node},
		{"cluster", old.Cluster, new.Cluster},
		{"relays", old.Relays, new.Relays},
		{"data", old.Data, new.Data},
		{"datasets", old.Datasets, new.Datasets},
		{"limits.nice", old.Limits.Nice, new.Limits.Nice},
		{"limits.io", old.Limits.IO, new.Limits.IO},
		{"listen", old.Listen, new.Listen},
		{"log.format", old.Log.Format, new.Log.Format},
	})
}
