import type { TestConnection } from '../connect.ts'
import type { Entry, OperationId } from './history.ts'
import type { Dialect } from './work.ts'

/** What the work has left in the database. */
export interface Books {
  /** In the order of seq. */
  readonly entries: Entry[]
  readonly counters: ReadonlyMap<string, number>
}

const SERIAL: Record<Dialect, string> = {
  postgres: 'bigint generated always as identity primary key',
  mysql: 'bigint auto_increment primary key',
  sqlite: 'integer primary key autoincrement',
}

/** Makes the tables of the work, with a counter and a flag for each lock. */
export async function createBooks(connection: TestConnection, dialect: Dialect, locks: readonly string[]) {
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
  const rows = (columns: string) => locks.map((lock) => `('${lock}', ${columns})`).join(', ')
  await connection.query(`insert into work_counters (name, value) values ${rows('0')}`)
  await connection.query(`insert into work_flags (name, holder, expires_at) values ${rows('null, 0')}`)
}

export async function readBooks(connection: TestConnection): Promise<Books> {
  const entries = await connection.query(
    'select seq, name, token, owner, operation, value from work_entries order by seq',
  )
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
    counters: new Map(counters.map(({ name, value }) => [name as string, Number(value)])),
  }
}
