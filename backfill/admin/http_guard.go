package admin

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// checkHost refuses a request for a name that is not ours: a page of another site can give its name
// our address, and then counts as the same site to a browser.
func (h *handler) checkHost(r *http.Request) error {
	if host := hostOf(r.Host); host != "" {
		if _, err := netip.ParseAddr(host); err == nil || h.hosts[strings.ToLower(host)] {
			return nil
		}
	}
	return &apiError{
		status: http.StatusMisdirectedRequest, code: "WRONG_HOST",
		text: fmt.Sprintf("the request is for the host %q, which is not known to be this one: if it is, name it with --allow-host of backfill ui, or admin.WithHosts", shorten(r.Host)),
	}
}

// hostOf returns what a Host header says without its port; "": it says nothing that can be right.
func hostOf(header string) string {
	host := header
	if name, port, err := net.SplitHostPort(header); err == nil {
		if strings.Trim(port, "0123456789") != "" {
			return ""
		}
		host = name
	} else if strings.HasPrefix(header, "[") && strings.HasSuffix(header, "]") {
		host = header[1 : len(header)-1]
	}
	return host
}

// isHostName reports whether a name can be that of a host.
func isHostName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

func shorten(text string) string {
	const most = 100
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}

// identify returns the context of who asks.
func (h *handler) identify(r *http.Request) (context.Context, error) {
	switch {
	case h.authenticate != nil:
		who, err := h.principalOf(r)
		if err != nil {
			return nil, err
		}
		return As(r.Context(), who), nil
	case h.anonymous:
		if err := checkDirect(r); err != nil {
			return nil, err
		}
		return As(r.Context(), Principal{}), nil
	}
	return nil, &apiError{
		status: http.StatusForbidden, code: "NO_AUTHENTICATOR",
		text: "nobody has said who may ask, so only health is served: pass admin.WithCredentials or admin.WithAuthenticate to admin.NewHandler",
	}
}

// proxied are headers that proxies and tunnels add.
var proxied = []string{"Forwarded", "Via", "X-Real-Ip", "X-Client-Ip", "X-Envoy-External-Address", "X-Original-Forwarded-For", "Cf-Connecting-Ip", "True-Client-Ip"}

// checkDirect refuses an anonymous request that does not come from this machine itself: a proxy on it
// would make everybody local.
func checkDirect(r *http.Request) error {
	why := ""
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Forwarded") {
			why = "the header " + name
		}
	}
	for _, name := range proxied {
		if _, there := r.Header[name]; there {
			why = "the header " + name
		}
	}
	if !r.ProtoAtLeast(1, 1) { // as nginx speaks it, which adds no header unless it is told to
		why = r.Proto
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	for _, address := range []string{r.RemoteAddr, fmt.Sprint(local)} {
		if end, err := netip.ParseAddrPort(address); err != nil || !end.Addr().Unmap().IsLoopback() {
			why = "its address"
		}
	}
	if why == "" {
		return nil
	}
	return &apiError{
		status: http.StatusForbidden, code: "PROXIED",
		text: why + " says that the request has come through a proxy or from another machine, and whoever reads without a password must be on this one: " +
			"start backfill ui with --users or --token-file, and --allow-host for the proxy's name",
	}
}

// checkOrigin refuses what a page of another site makes a browser ask for. Changes are also refused
// if they are not JSON, which no page can send elsewhere unasked.
func (h *handler) checkOrigin(r *http.Request) error {
	if err := h.cross.Check(r); err != nil {
		return &apiError{
			status: http.StatusForbidden, code: "CROSS_ORIGIN",
			text: fmt.Sprintf("a page of another origin sends this (Origin %q, Sec-Fetch-Site %q, Host %q): if it is yours, name its origin with --trust-origin of backfill ui, "+
				"or admin.WithTrustedOrigins; behind a proxy, let the proxy pass the Host header on",
				shorten(r.Header.Get("Origin")), shorten(r.Header.Get("Sec-Fetch-Site")), shorten(r.Host)),
		}
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return nil
	}
	switch site := r.Header.Get("Sec-Fetch-Site"); site {
	case "", "none", "same-origin":
		return nil
	default: // a link leads here, or a frame of an origin that is trusted
		if r.Header.Get("Sec-Fetch-Mode") == "navigate" && (r.Header.Get("Sec-Fetch-Dest") == "document" || len(h.origins) > 0) {
			return nil
		}
		return &apiError{
			status: http.StatusForbidden, code: "CROSS_ORIGIN",
			text: fmt.Sprintf("a page of another site reads this (Sec-Fetch-Site %q): it can only link to it; to show it in a frame, name the page's origin with --trust-origin of backfill ui, "+
				"or admin.WithTrustedOrigins", shorten(site)),
		}
	}
}
