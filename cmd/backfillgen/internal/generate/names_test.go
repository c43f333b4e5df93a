package generate

import "testing"

// The cases of the rule's text come first.
func TestSnakeCase(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"SendSMS": "send_sms", "HTTPPing": "http_ping", "S3Copy": "s3_copy", "SyncUserIDs": "sync_user_ids",
		"Base64Encode": "base64_encode", "Send2FA": "send_2fa", "Resize2XImages": "resize_2x_images",

		"SendEmail": "send_email", "sendEmail": "send_email", "A": "a", "AB": "ab", "ABc": "a_bc", "with_underscore": "with_underscore",
		"With_Upper": "with_upper", "ÄrgerÜber": "ärger_über", "X1": "x1", "URL": "url", "OAuth2Sync": "o_auth2_sync",
		"GetURLs": "get_urls", "RenderPDFs": "render_pdfs", "CrawlURLs": "crawl_urls", "URLsOf": "urls_of", "UserIDsByURLs": "user_ids_by_urls",
		"IDs": "ids", "IsOK": "is_ok", "SendAs": "send_as", "SendASMS": "send_asms", "DNSsec": "dn_ssec", "APIStatus": "api_status",
		"HTTPServer": "http_server", "BackupDBsAndS3s": "backup_dbs_and_s3s", "IDs2Names": "ids2_names", "Vacuum_DBs": "vacuum_dbs",
		"IDs_Of": "ids_of", "Convert3DModels": "convert_3d_models", "Print4K": "print_4k", "MP3ToOGG": "mp3_to_ogg", "MP3s": "mp3s",
		"UseS3URLs": "use_s3_urls", "Send2FACode": "send_2fa_code", "Plan9Images": "plan9_images", "Step2": "step2", "Step2b": "step2b",
		"Verify2FAs": "verify_2fas", "H264Encode": "h264_encode", "Top10Report": "top10_report", "2": "2", "V2API": "v2_api", "Get2": "get2",
	} {
		if got := snakeCase(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
