-- Runs once, as the superuser, when the data volume is empty. The two roles of the service: the owner migrates, the runtime
-- role gets its privileges table by table from the migrations and so cannot change what the audit tables hold.
-- Passwords come from the environment, so that no file holds one; without one of them the statement fails and so does the start.
\getenv owner_password POSTGRES_OWNER_PASSWORD
\getenv runtime_password POSTGRES_RUNTIME_PASSWORD
CREATE ROLE user_management_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE user_management LOGIN PASSWORD :'runtime_password';
CREATE DATABASE user_management OWNER user_management_owner;
REVOKE ALL ON DATABASE user_management FROM PUBLIC;
GRANT CONNECT ON DATABASE user_management TO user_management;
