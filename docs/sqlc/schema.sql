-- The application's own tables, which refer to nothing of the job queue's.
create table orders (
  id bigint primary key generated always as identity,
  customer text not null,
  total numeric(12, 2) not null
);
