/** What the snippets of the documents take for granted: an application on SQLite, in memory. */
import Sqlite from 'better-sqlite3'
import { Kysely, SqliteDialect, sql } from 'kysely'
import { fromKysely } from '../../src/adapters/kysely.ts'
import { createLocks } from '../../src/index.ts'

interface Schema {
  invoice: { id: number; receipt: string | null }
  account: { id: number; balance: number }
}

export const database: Sqlite.Database = new Sqlite(':memory:')
export const db = new Kysely<Schema>({ dialect: new SqliteDialect({ database }) })

await sql`create table invoice (id integer primary key, receipt text)`.execute(db)
await sql`create table account (id integer primary key, balance integer not null)`.execute(db)
await db.insertInto('invoice').values({ id: 42, receipt: null }).execute()
await db.insertInto('account').values({ id: 7, balance: 100 }).execute()

export const locks = createLocks(fromKysely(db))
await locks.migrate()

interface Work {
  readonly signal?: AbortSignal
}

export async function chargeCard(_: Work & { readonly idempotencyKey: string }): Promise<string> {
  return 'a receipt'
}

export async function sendMail(): Promise<void> {}

export async function buildReport(_?: Work): Promise<string> {
  return 'a report'
}

export async function askForInterest({ balance }: { readonly balance: number }): Promise<number> {
  return balance / 100
}
