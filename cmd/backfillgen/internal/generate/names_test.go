package generate

import "testing"

// The cases of the rule's text come first.
func TestSnakeCase(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"SendSMS": "send_sms", "HTTPPing": "http_ping", "S3Copy": "s3_copy", "OAuth2Sync": "o_auth2_sync",
		"SendEmail": "send_email", "sendEmail": "send_email", "A": "a", "AB": "ab", "ABc": "a_bc", "Send2FA": "send2_fa", "with_underscore": "with_underscore",
		"With_Upper": "with_upper", "ÄrgerÜber": "ärger_über", "X1": "x1", "URL": "url", "GetURLs": "get_ur_ls",
	} {
		if got := snakeCase(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
