"""Words that the invented firms, people and companies are made of, and the zones they are spread over."""

from __future__ import annotations

ZONES = (
    "Europe/London",
    "America/New_York",
    "Asia/Kolkata",  # +05:30
    "Asia/Kathmandu",  # +05:45
    "Australia/Lord_Howe",  # +10:30, and +11 in summer: half an hour of daylight saving
    "America/Sao_Paulo",
    "America/Guyana",  # −04, which its neighbours' rules never were
    "Pacific/Kiritimati",  # +14, the first to see a day
    "Pacific/Apia",  # +13, which skipped a whole day in 2011
    "Africa/Casablanca",  # +01, but +00 during Ramadan
    "Asia/Tokyo",
)

FIRMS = (
    "Ashdown & Partners", "Beaumont Tax", "Chandra Associates", "Everest Ledger", "Lagoon Accounting",
    "Ferreira Contábil", "Demerara Advisory", "Sunrise Books", "Savaii Accountants", "Atlas Fiduciaire",
    "Kagami Tax", "Northgate Chartered", "Hudson Ledger", "Deccan Audit", "Annapurna Tax", "Ball's Pyramid Books",
    "Paulista Auditores", "Essequibo Partners", "Line Islands Tax", "Upolu Ledger", "Rif Conseil",
    "Sakura Accounting", "Whitfield Payroll", "Liberty Street Tax",
)  # fmt: skip

FIRST_NAMES = (
    "Amelia", "Oliver", "Priya", "Arjun", "Maria", "João", "Yuki", "Haruto", "Salma", "Youssef", "Sina", "Tavita",
    "Grace", "Daniel", "Nisha", "Bikash", "Emma", "Noah", "Leilani", "Ethan", "Chloe", "Rahul", "Ana", "Kenji",
    "Fatima", "Omar", "Ruth", "Peter", "Asha", "Thomas",
)  # fmt: skip

LAST_NAMES = (
    "Hart", "Sharma", "Silva", "Tanaka", "Alaoui", "Leota", "Rai", "Clarke", "Persaud", "Murphy", "Gurung", "Costa",
    "Sato", "Bennani", "Tuilagi", "Wright", "Nair", "Oliveira", "Suzuki", "Haddad", "Brown", "Iyer", "Ramdin",
    "Watanabe", "Fofana", "Okafor", "Lindqvist", "Novak", "Moreau", "Keane",
)  # fmt: skip

TRADES = (
    "Bakery", "Builders", "Catering", "Dental Care", "Design", "Electrical", "Fisheries", "Garage", "Haulage",
    "Hotels", "Imports", "Joinery", "Landscapes", "Logistics", "Media", "Motors", "Nurseries", "Optics", "Pharmacy",
    "Plumbing", "Printing", "Properties", "Robotics", "Software", "Solar", "Textiles", "Travel", "Vineyards",
)  # fmt: skip

COMPANY_FORMS = ("Ltd", "Ltd", "LLP", "Inc", "Trust")

DOCUMENT_TYPES = {
    "passport": "Passport",
    "id_card": "Identity card",
    "driving_licence": "Driving licence",
    "proof_of_address": "Proof of address",
    "engagement_letter": "Engagement letter",
    "company_registration": "Certificate of registration",
    "beneficial_owners": "Register of beneficial owners",
    "bank_mandate": "Bank mandate",
    "tax_residency": "Certificate of tax residence",
    "insurance": "Professional indemnity insurance",
}

FILING_TYPES = {
    "vat_return": "VAT return",
    "annual_accounts": "Annual accounts",
    "corporation_tax": "Corporation tax return",
    "income_tax": "Income tax return",
    "payroll": "Payroll return",
    "confirmation_statement": "Confirmation statement",
    "withholding_tax": "Withholding tax return",
}
