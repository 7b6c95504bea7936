/** The database of these examples: PostgreSQL by its URL, else a file of SQLite. */
import Sqlite from 'better-sqlite3'
import { Kysely, PostgresDialect, SqliteDialect } from 'kysely'
import pg from 'pg'
import { fromKysely } from '../../src/adapters/kysely.ts'
import { createLocks } from '../../src/index.ts'

export interface Tables {
  events: { event: string; amount: number }
  reports: { day: string; made_by: number }
  copied: { row: number; leader: number }
  versions: { version: number; applied_by: number }
}

const url = process.argv[2] ?? process.env.DATABASE_URL ?? 'jobs.sqlite'

export const db = new Kysely<Tables>({
  dialect: url.startsWith('postgres')
    ? new PostgresDialect({ pool: new pg.Pool({ connectionString: url }) })
    : new SqliteDialect({ database: new Sqlite(url, { timeout: 5000 }) }),
})

export const locks = createLocks(fromKysely(db), { ttl: '5s', wait: '30s' })

export async function end(): Promise<void> {
  await locks.close()
  await db.destroy()
}
