package fsmeta

import (
	"errors"
	"os/user"
	"strconv"
	"sync"
)

// Names finds the names of users and groups and remembers them, up to a bound each. A name that changes while the process
// runs is noticed when the memory was full once, or at the next start. It may be used concurrently.
type Names struct {
	mu            sync.Mutex
	users, groups map[uint32]string
	bound         int
}

// NewNames returns a Names that remembers up to bound users and bound groups.
func NewNames(bound int) *Names {
	return &Names{users: map[uint32]string{}, groups: map[uint32]string{}, bound: bound}
}

// User returns the name of a user, "" when it has none, or when it cannot be looked up now.
func (n *Names) User(uid uint32) string {
	return n.lookup(n.users, uid, func(id string) (string, error) {
		u, err := user.LookupId(id)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

// Group returns the name of a group, as User does that of a user.
func (n *Names) Group(gid uint32) string {
	return n.lookup(n.groups, gid, func(id string) (string, error) {
		g, err := user.LookupGroupId(id)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	})
}

func (n *Names) lookup(m map[uint32]string, id uint32, find func(string) (string, error)) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	name, ok := m[id]
	if !ok {
		if len(m) >= n.bound {
			clear(m)
		}
		var err error
		if name, err = find(strconv.FormatUint(uint64(id), 10)); err == nil || nobody(err) {
			m[id] = name
		}
	}
	return name
}

// nobody reports whether a lookup found that there is no such name, in place of failing: for want of a file that may be open, say.
func nobody(err error) bool {
	var noUser user.UnknownUserIdError
	var noGroup user.UnknownGroupIdError
	return errors.As(err, &noUser) || errors.As(err, &noGroup)
}
