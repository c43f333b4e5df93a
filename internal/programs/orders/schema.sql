create schema if not exists shop;

create table if not exists shop.orders (
  id       text primary key, -- chosen by the customer's browser, so an order can be sent twice
  customer text not null,
  quantity integer not null check (quantity > 0)
);

create table if not exists shop.stock (
  left_over integer not null check (left_over >= 0)
);

insert into shop.stock select 100 where not exists (select from shop.stock);
