import { fromKysely } from '../adapters/kysely.ts'
import { createLocks } from '../index.ts'
import { connect } from './connect.ts'

export interface MigrateOptions {
  readonly databaseUrl: string
  readonly schema?: string
  readonly tablePrefix?: string
}

/** Others may be migrating, or writing to the SQLite file, meanwhile. */
const PATIENCE = '60s'

/** Applies the migrations that the database lacks; answers their names. */
export async function migrate({ databaseUrl, ...naming }: MigrateOptions): Promise<string[]> {
  const db = await connect(databaseUrl)
  try {
    return await createLocks(fromKysely(db), { ...naming, statementTimeout: PATIENCE }).migrate()
  } finally {
    await db.destroy()
  }
}
