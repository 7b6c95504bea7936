export const PERMITS = 10
/** Of each process. */
export const CLIENTS = 5

/** What clients of all processes have at once, in a file of its own. */
export const LEDGER = {
  create: `
    create table ledger (taken int not null, most int not null, granted int not null);
    insert into ledger values (0, 0, 0)`,
  change: 'update ledger set taken = taken + @weight, most = max(most, taken + @weight) returning taken',
  granted: 'update ledger set granted = granted + 1',
  read: 'select taken, most, granted from ledger',
}
