import mysql from 'mysql2/promise'
import { fromMysql2 } from '../../src/adapters/mysql2.ts'
import { fromPg } from '../../src/adapters/pg.ts'
import { fromPrisma, type PrismaClient } from '../../src/adapters/prisma.ts'
import type { Adapter } from '../../src/index.ts'
import { createPgPool } from '../adapters.ts'
import { type OwnConnectionOptions, ownConnectionSuite, withoutOwnConnectionSuite } from '../race/own-connection.ts'
import { allSuites } from './all-suites.ts'
import type { OrmConnected } from './engines.ts'

/** Prisma opens none beside its pool, so it is given a pool for that. */
const withSessions: OwnConnectionOptions['adapter'] = (connected, url) => {
  const { db } = connected as unknown as OrmConnected & { db: PrismaClient }
  if (url.startsWith('postgres')) {
    const pool = createPgPool({ connectionString: url })
    return { adapter: fromPrisma(db, { sessions: fromPg(pool) }) as Adapter<unknown>, close: () => pool.end() }
  }
  const pool = mysql.createPool({ uri: url })
  return { adapter: fromPrisma(db, { sessions: fromMysql2(pool) }) as Adapter<unknown>, close: () => pool.end() }
}

allSuites('Prisma', (engine) => {
  ownConnectionSuite(engine, { adapter: withSessions })
  withoutOwnConnectionSuite(engine)
})
