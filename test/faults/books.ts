import type { TestConnection } from '../connect.ts'
import type { Entry, OperationId, ReadEntry, UseEntry } from './history.ts'
import { type Dialect, PERMITS } from './work.ts'

/** What the work has left in the database. */
export interface Books {
  /** In the order of seq. */
  readonly entries: Entry[]
  readonly reads: ReadEntry[]
  readonly uses: UseEntry[]
  readonly counters: ReadonlyMap<string, number>
}

const SERIAL: Record<Dialect, string> = {
  postgres: 'bigint generated always as identity primary key',
  mysql: 'bigint auto_increment primary key',
  sqlite: 'integer primary key autoincrement',
}

/** Makes the tables of the work, with a counter and a flag for each lock, and a seat for each permit of each semaphore. */
export async function createBooks(
  connection: TestConnection,
  dialect: Dialect,
  locks: readonly string[],
  semaphores: readonly string[],
) {
  await connection.query('create table work_counters (name varchar(40) primary key, value bigint not null)')
  await connection.query(
    'create table work_flags (name varchar(40) primary key, holder varchar(40), expires_at bigint not null)',
  )
  await connection.query(`
    create table work_entries (
      seq ${SERIAL[dialect]},
      name varchar(40) not null,
      token bigint,
      owner varchar(64),
      operation varchar(40) not null,
      value bigint not null
    )`)
  const ofHold = `
    operation varchar(40) primary key,
    name varchar(40) not null,
    token bigint not null,
    owner varchar(64) not null`
  await connection.query(`create table work_reads (${ofHold}, seen_first bigint not null, seen_last bigint not null)`)
  await connection.query(`create table work_uses (${ofHold}, weight int not null, seats int not null)`)
  await connection.query(
    'create table work_seats (name varchar(40) not null, seat int not null, primary key (name, seat))',
  )
  const rows = (columns: string) => locks.map((lock) => `('${lock}', ${columns})`).join(', ')
  await connection.query(`insert into work_counters (name, value) values ${rows('0')}`)
  await connection.query(`insert into work_flags (name, holder, expires_at) values ${rows('null, 0')}`)
  const seats = semaphores.flatMap((name) => Array.from({ length: PERMITS }, (_, seat) => `('${name}', ${seat})`))
  await connection.query(`insert into work_seats (name, seat) values ${seats.join(', ')}`)
}

export async function readBooks(connection: TestConnection): Promise<Books> {
  const entries = await connection.query(
    'select seq, name, token, owner, operation, value from work_entries order by seq',
  )
  const reads = await connection.query('select operation, name, token, owner, seen_first, seen_last from work_reads')
  const uses = await connection.query('select operation, name, token, owner, weight, seats from work_uses')
  const counters = await connection.query('select name, value from work_counters')
  return {
    entries: entries.map(({ seq, name, token, owner, operation, value }) => ({
      seq: Number(seq),
      lock: name as string,
      token: token === null ? null : Number(token),
      owner: owner as string | null,
      operation: operation as OperationId,
      value: Number(value),
    })),
    reads: reads.map((row) => ({ ...ofHold(row), first: Number(row.seen_first), last: Number(row.seen_last) })),
    uses: uses.map((row) => ({ ...ofHold(row), weight: Number(row.weight), seats: Number(row.seats) })),
    counters: new Map(counters.map(({ name, value }) => [name as string, Number(value)])),
  }
}

function ofHold({ operation, name, token, owner }: Record<string, unknown>) {
  return {
    operation: operation as OperationId,
    lock: name as string,
    token: Number(token),
    owner: owner as string,
  }
}
