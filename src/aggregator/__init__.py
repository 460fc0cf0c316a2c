"""The service that turns recorded calls into exact usage analytics. See the README; `app.py` joins the parts."""
