package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/config/configmap"
	"github.com/rclone/rclone/fs/config/obscure"

	"forebay/flush/target"
	"forebay/flush/target/process/serve"
	"forebay/proto"
)

// remoteSetting is the connection string; all other settings are options of its backend.
const remoteSetting = "remote"

// open opens the remote that the relay's settings describe.
func open(ctx context.Context, o serve.Opening) (target.Target, error) {
	text := o.Settings[remoteSetting]
	if text == "" {
		return nil, proto.Errorf(proto.ClassPermanent, "the setting remote is missing: give a connection string, as in :webdav,url='https://dav.example.org':/backup")
	}
	info, name, root, given, err := fs.ParseRemote(text)
	if err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "remote %s: %w: the backends here are %s", text, err, strings.Join(backends(), ", "))
	}
	if given == nil {
		given = configmap.Simple{}
	}
	if err := addSettings(given, info, o.Settings); err != nil {
		return nil, err
	}
	f, err := info.NewFs(ctx, name, root, fs.ConfigMap(info.Prefix, info.Options, name, given))
	switch {
	case errors.Is(err, fs.ErrorIsFile):
		return nil, proto.Errorf(proto.ClassPermanent, "remote %s is a file: name a directory", text)
	case err != nil:
		return nil, proto.Errorf(proto.ClassTransient, "open remote %s: %w", text, err)
	}
	return newRemote(f, info.Prefix, text, o), nil
}

func backends() (names []string) {
	for _, info := range fs.Registry {
		names = append(names, info.Prefix)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// addSettings adds the relay's settings to the options of the connection string. Passwords come as they are; rclone's own form of them
// hides them from glances only.
func addSettings(given configmap.Simple, info *fs.RegInfo, settings map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		if k == remoteSetting {
			continue
		}
		option := info.Options.Get(k)
		if option == nil {
			return proto.Errorf(proto.ClassPermanent, "setting %q is no option of rclone's backend %s", k, info.Prefix)
		}
		v := settings[k]
		if option.IsPassword {
			var err error
			if v, err = obscure.Obscure(v); err != nil {
				return proto.Errorf(proto.ClassPermanent, "setting %q: %w", k, err)
			}
		}
		given.Set(k, v)
	}
	for k, v := range preset {
		if _, set := given.Get(k); !set && info.Options.Get(k) != nil {
			given.Set(k, v)
		}
	}
	return nil
}

// preset are options that are other than rclone's own, unless they are given: where a bucket can have empty directories, it has, and a
// bucket that is not there is not made.
var preset = map[string]string{"directory_markers": "true", "no_check_bucket": "true", "no_check_container": "true"} // never written
