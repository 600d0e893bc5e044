"""Secrets and personal data that must leave no trace: 40 values, each of a shape that a log scanner knows."""

SECRETS = {
    "openai_key": "sk-proj-Zq7Rk2Xw9Lm4Tn8Vb3Yc6Hd1Jf5Gs0Pa",
    "anthropic_key": "sk-ant-api03-9f2KxQ7mWd4ZtR8vLb1NcY6hJs3GpE5aUo0",
    "aws_access_key": "AKIAZQ3DRSTUVWXY7Z2K",
    "aws_secret": "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",
    "gcp_key": "AIzaSyD4vR8nKq2mWx7LtZb1Yc6Hs9Jf3Gp5Ea0U",
    "github_token": "ghp_4Kq9Zt2Xw7Lm1Rn8Vb3Yc6Hd5Jf0Gs9PaQe2",
    "github_fine": "github_pat_11ABCDEFG0aZq7Rk2Xw9Lm_4Tn8Vb3Yc6Hd1Jf5Gs0PaQ2We4Rt6Yu8Io0Pq",
    "gitlab_token": "glpat-Zq7Rk2Xw9Lm4Tn8Vb3Yc",
    "slack_token": "xoxb-482915730264-7391846205173-Zq7Rk2Xw9Lm4Tn8Vb3Yc6Hd1",
    "stripe_key": "sk_live_51Zq7Rk2Xw9Lm4Tn8Vb3Yc6Hd1",
    "npm_token": "npm_Zq7Rk2Xw9Lm4Tn8Vb3Yc6Hd1Jf5Gs0PaQe24",
    "jwt": "eyJhbGciOiJSUzI1NiIsImtpZCI6ImNhbmFyeSJ9.eyJzdWIiOiJjYW5hcnktc3ViamVjdCIsImlhdCI6MTc2M30"
    ".c2lnbmF0dXJlLW9mLWEtY2FuYXJ5LXRva2VuLXRoYXQtaXMtbG9uZw",
    "pem": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQCcanary\n"
    "-----END PRIVATE KEY-----",
    "postgres_url": "postgresql://canary_user:Zq7Rk2Xw9Lm4@db.canary.example:5432/payments",
    "redis_url": "redis://:Tn8Vb3Yc6Hd1Jf5@cache.canary.example:6379/0",
    "mongodb_url": "mongodb+srv://canary:Gs0PaQe2Zq7Rk@cluster0.canary.mongodb.net/app",
    "basic_auth_url": "https://canary:Xw9Lm4Tn8Vb3@intranet.canary.example/reports",
    "bearer": "Bearer 7Zq9Rk2Xw4Lm8Tn1Vb6Yc3Hd5Jf0Gs2PaQe",
    "password": "password=Zq7!Rk2Xw9Lm4Tn8",
    "azure_connection": "DefaultEndpointsProtocol=https;AccountName=canary;AccountKey="
    "Zq7Rk2Xw9Lm4Tn8Vb3Yc6Hd1Jf5Gs0PaQe2Zq7Rk2Xw9Lm4Tn8Vb3Yc6Hd1Jf5Gs0PaQe2Zq7Rk2Xw==;EndpointSuffix=core.windows.net",
}
PERSONAL = {
    "email": "canary.person@mail.canary.example",
    "email_plus": "c.anary+invoice@sub.canary.co.uk",
    "phone_us": "+1 415 555 2671",
    "phone_de": "+49 30 901820",
    "phone_fr": "+33 1 70 18 99 00",
    "phone_uk": "+44 20 7946 0958",
    "phone_in": "+91 98765 43210",
    "card_visa": "4539 1488 0343 6467",
    "card_mastercard": "5425-2334-3010-9903",
    "card_amex": "374245455400126",
    "iban_de": "DE89 3704 0044 0532 0130 00",
    "iban_gb": "GB29NWBK60161331926819",
    "iban_fr": "FR14 2004 1010 0505 0001 3M02 606",
    "ssn": "536-90-4399",
    "bsn": "111222333",
    "pesel": "44051401359",
    "cpf": "529.982.247-25",
    "nir": "2 55 08 14 168 025 38",
    "ipv4": "203.0.113.77",
    "ipv6": "2001:db8:85a3::8a2e:370:7334",
}
CANARIES = SECRETS | PERSONAL

# What looks like any other word or number is found by what stands before it (docs/redaction.md).
_CONTEXTS = {"aws_secret": "aws_secret_access_key={}", "bsn": "BSN {}"}
TOLD = {name: _CONTEXTS.get(name, "{}").format(value) for name, value in CANARIES.items()}
"""Each canary as people and programs would write it."""
