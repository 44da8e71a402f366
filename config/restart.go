package config

import "reflect"

// setting is a key and its value before and after.
type setting struct {
	key      string
	old, new any
}

func restartKeys(all []setting) (keys []string) {
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
	return restartKeys([]setting{
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

// AgentTakeOver returns what a running agent takes over of a changed file: all but the keys that need a new process, which
// keep their old value and are named. changed says whether the agent has to be made anew for it: the level of the log alone
// is taken over as it runs.
func AgentTakeOver(running, file *Agent) (next *Agent, keys []string, changed bool) {
	keys = restartKeys([]setting{
		{"data", running.Data, file.Data},
		{"listen", running.Listen, file.Listen},
		{"log.format", running.Log.Format, file.Log.Format},
	})
	taken := *file
	taken.Data, taken.Listen, taken.Insecure, taken.Log.Format = running.Data, running.Listen, running.Insecure, running.Log.Format
	same := *running
	same.Log.Level = taken.Log.Level
	return &taken, keys, !reflect.DeepEqual(same, taken)
}
