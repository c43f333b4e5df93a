package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Authenticate says who sends a request, by a session or a token for instance. It returns
// ErrUnauthenticated if that cannot be told; another error says that it could not be looked up. It
// may be called by several goroutines.
type Authenticate func(*http.Request) (Principal, error)

// ErrUnauthenticated is returned by an Authenticate for a request that nobody in particular sends.
var ErrUnauthenticated = errors.New("nobody is authenticated")

// ByRole lets a principal do what its roles say: "reader" sees everything but payloads; "operator" sees
// payloads as well, enqueues, retries, cancels, reschedules, requeues, pauses, triggers, unlocks and
// stops operations; "admin" also edits, deletes, and fixes what doctor has found. Others do nothing.
func ByRole(_ context.Context, principal Principal, action Action, _ Target) bool {
	return slices.ContainsFunc(principal.Roles, func(role string) bool { return slices.Contains(byRole[role], action) })
}

var (
	readerActions   = []Action{ActionRead}
	operatorActions = append(slices.Clone(readerActions), ActionReadValues, ActionEnqueue, ActionRetry, ActionCancel, ActionReschedule, ActionRequeue,
		ActionPause, ActionTrigger, ActionUnlock, ActionStop)
	byRole = map[string][]Action{
		"reader": readerActions, "operator": operatorActions, "admin": append(slices.Clone(operatorActions), ActionDelete, ActionEdit, ActionFix),
	}
)

// Credential lets a program or a person in, by a bearer token, or by name and password of basic
// authentication: the secret is both.
type Credential struct {
	_ [0]func() // fields may be added

	Name  string   // of the principal, which records of changes have; without a colon
	Roles []string // see ByRole
	// Secret is what is sent: 16 bytes at least, drawn by chance, as openssl rand -hex 32 does it. It
	// may be given as "sha256:" and the SHA-256 of it in hexadecimal digits.
	Secret  string
	Expires time.Time // zero: never
}

// leastSecret is how long a secret is: a shorter one could be guessed.
const leastSecret = 16

// stored is a credential as it is compared.
type storedCredential struct {
	Principal

	name, secret [sha256.Size]byte
	expires      time.Time
}

// WithCredentials lets in who has one of these. Default: nobody.
func WithCredentials(credentials ...Credential) HandlerOption {
	return func(h *handler) error {
		if len(credentials) == 0 {
			return errors.New("WithCredentials: there are none, so nobody could be told")
		}
		var list []storedCredential
		for _, c := range credentials {
			s, err := c.stored()
			if err != nil {
				return err
			}
			if slices.ContainsFunc(list, func(other storedCredential) bool { return other.secret == s.secret }) {
				return fmt.Errorf("the credential of %q has the secret of another: who asks could not be told", c.Name)
			}
			list = append(list, s)
		}
		return WithAuthenticate(func(r *http.Request) (Principal, error) { return compare(list, r) })(h)
	}
}

func (c *Credential) stored() (s storedCredential, err error) {
	s = storedCredential{Principal: Principal{c.Name, slices.Clone(c.Roles)}, name: sha256.Sum256([]byte(c.Name)), expires: c.Expires}
	if c.Name == "" || strings.ContainsFunc(c.Name, func(r rune) bool { return r == ':' || unicode.IsControl(r) }) || !utf8.ValidString(c.Name) {
		return s, fmt.Errorf("the name %q of a credential is none: want text without colons", c.Name)
	}
	if slices.Contains(c.Roles, "") {
		return s, fmt.Errorf("a role of the credential of %q is empty", c.Name)
	}
	if digits, hashed := strings.CutPrefix(c.Secret, "sha256:"); hashed {
		if n, err := hex.Decode(s.secret[:], []byte(digits)); err != nil || n != len(s.secret) {
			return s, fmt.Errorf("the secret of %q is no SHA-256: want sha256: and 64 hexadecimal digits", c.Name)
		}
		return s, nil
	}
	if len(c.Secret) < leastSecret {
		return s, fmt.Errorf("the secret of %q has %d bytes: want %d at least, such as openssl rand -hex 32 writes", c.Name, len(c.Secret), leastSecret)
	}
	s.secret = sha256.Sum256([]byte(c.Secret))
	return s, nil
}

// errExpired is told to who has the secret.
var errSecretExpired = fmt.Errorf("the token, or password, has expired: %w", ErrUnauthenticated)

// compare compares what a request has with each credential, in the same time whatever is equal.
func compare(list []storedCredential, r *http.Request) (Principal, error) {
	header := r.Header.Values("Authorization")
	if len(header) != 1 {
		return Principal{}, ErrUnauthenticated
	}
	name, secret, basic := r.BasicAuth()
	if !basic {
		scheme, token, _ := strings.Cut(header[0], " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return Principal{}, ErrUnauthenticated
		}
		secret = token
	}
	nameSum, secretSum := sha256.Sum256([]byte(name)), sha256.Sum256([]byte(secret))
	found := -1
	for i := range list {
		same := subtle.ConstantTimeCompare(secretSum[:], list[i].secret[:])
		if basic {
			same &= subtle.ConstantTimeCompare(nameSum[:], list[i].name[:])
		}
		found = subtle.ConstantTimeSelect(same, i, found)
	}
	switch {
	case found < 0:
		return Principal{}, ErrUnauthenticated
	case !list[found].expires.IsZero() && !time.Now().Before(list[found].expires):
		return Principal{}, errSecretExpired
	}
	return list[found].Principal, nil
}

// principalOf asks who sends a request. Nobody has no name.
func (h *handler) principalOf(r *http.Request) (Principal, error) {
	who, err := h.authenticate(r)
	if err == nil && who.Name == "" {
		err = ErrUnauthenticated
	}
	switch {
	case errors.Is(err, ErrUnauthenticated):
		text := "pass a token in the header Authorization, behind the word Bearer, or a name and a password by basic authentication"
		if errors.Is(err, errSecretExpired) {
			text = "the token, or password, has expired: whoever gave it out can give you a new one"
		} else if r.Header.Get("Authorization") != "" {
			text = "what the header Authorization has is no token, or no name and password, that is known"
		}
		return who, &apiError{
			status: http.StatusUnauthorized, code: "UNAUTHENTICATED", text: text,
			header: http.Header{"Www-Authenticate": {`Basic realm="backfill", charset="UTF-8"`, `Bearer realm="backfill"`}},
		}
	case err != nil:
		return who, &apiError{
			status: http.StatusServiceUnavailable, code: "AUTHENTICATION_FAILED", text: "who sends the request could not be looked up: the log says why", cause: err,
		}
	}
	return who, nil
}
