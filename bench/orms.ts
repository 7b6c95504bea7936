import createKnex, { type Knex } from 'knex'
import { CompiledQuery, Kysely, MysqlDialect, PostgresDialect, SqliteDialect } from 'kysely'
import { createPool } from 'mysql2'
import type { Adapter } from '../src/index.ts'
import { openPgPool, openSqlite } from './drivers.ts'
import { fromDrizzle, fromKnex, fromKysely, fromPrisma, fromSequelize, fromTypeorm } from './library.ts'
import { kindOf, type Target } from './servers.ts'

/** An instance of an ORM, as an application has it. */
interface Orm {
  readonly adapter: Adapter<unknown>
  /**
   * Sends an UPDATE by the ORM's own call for SQL that an application has written, with a ? for each value; answers how many
   * rows it changed, on PostgreSQL those that it returns. Not through rowlock's adapter, whose cost is to be seen.
   */
  update(text: string, values: readonly string[]): Promise<number>
  close(): Promise<unknown>
}

export type OrmName = keyof typeof orms

// Those that are not in use are not loaded, since each worker process would have to do that.
const orms = {
  Kysely(target, connections) {
    const db = openKysely(target, connections)
    const isPostgres = kindOf(target.engine) === 'postgres'
    return {
      adapter: fromKysely(db) as Adapter<unknown>,
      async update(text, values) {
        const query = CompiledQuery.raw(isPostgres ? numbered(text) : text, [...values])
        const { rows, numAffectedRows } = await db.executeQuery(query)
        return isPostgres ? rows.length : Number(numAffectedRows)
      },
      close: () => db.destroy(),
    }
  },

  Knex(target, connections) {
    const knex = openKnex(target, connections)
    return {
      adapter: fromKnex(knex) as Adapter<unknown>,
      update: async (text, values) => (await knex.raw(text, [...values])).rows.length,
      close: () => knex.destroy(),
    }
  },

  async Drizzle({ url }, connections) {
    const { drizzle } = await import('drizzle-orm/node-postgres')
    const { sql } = await import('drizzle-orm/sql')
    const pool = openPgPool(url, connections)
    const db = drizzle(pool)
    return {
      adapter: fromDrizzle(db) as Adapter<unknown>,
      async update(text, values) {
        const parts = text.split('?')
        return (await db.execute(sql(Object.assign(parts, { raw: parts }), ...values))).rows.length
      },
      close: () => pool.end(),
    }
  },

  async TypeORM({ url }, connections) {
    const { DataSource } = await import('typeorm')
    const dataSource = await new DataSource({ type: 'postgres', url, poolSize: connections }).initialize()
    return {
      adapter: fromTypeorm(dataSource) as Adapter<unknown>,
      async update(text, values) {
        // Rows and their count; of a statement that is no UPDATE only the rows.
        const [rows = []] = await dataSource.query(numbered(text), [...values])
        return rows.length
      },
      close: () => dataSource.destroy(),
    }
  },

  async Sequelize({ url }, connections) {
    const { Sequelize } = await import('sequelize')
    const sequelize = new Sequelize(url, { logging: false, pool: { max: connections } })
    return {
      adapter: fromSequelize(sequelize) as Adapter<unknown>,
      async update(text, values) {
        const [rows] = await sequelize.query(numbered(text), { bind: [...values] })
        return rows.length
      },
      close: () => sequelize.close(),
    }
  },

  async Prisma({ url }, connections) {
    const { PrismaPg } = await import('@prisma/adapter-pg')
    const { generatedClient } = await import('../test/orms/prisma/generate.ts')
    const { PrismaClient } = await generatedClient('postgresql')
    const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: url, max: connections }) }) as Prisma
    return {
      adapter: fromPrisma(prisma) as Adapter<unknown>,
      update: async (text, values) => (await prisma.$queryRawUnsafe<unknown[]>(numbered(text), ...values)).length,
      close: () => prisma.$disconnect(),
    }
  },
} satisfies Record<string, (target: Target, connections: number) => Orm | Promise<Orm>>

type Prisma = Parameters<typeof fromPrisma>[0] & { $disconnect(): Promise<void> }

export async function openOrm(name: OrmName, target: Target, connections: number): Promise<Orm> {
  return orms[name](target, connections)
}

// What is kept in these databases concerns nobody, and stores only pass it on.
// biome-ignore lint/suspicious/noExplicitAny: verrou's store asks for a Kysely of any tables.
export function openKysely({ engine, url }: Target, connections: number): Kysely<any> {
  switch (kindOf(engine)) {
    case 'postgres':
      return new Kysely({ dialect: new PostgresDialect({ pool: openPgPool(url, connections) }) })
    case 'mysql':
      return new Kysely({ dialect: new MysqlDialect({ pool: createPool({ uri: url, connectionLimit: connections }) }) })
    case 'sqlite':
      return new Kysely({ dialect: new SqliteDialect({ database: openSqlite(url) }) })
  }
}

export function openKnex({ engine, url }: Target, connections: number): Knex {
  const pool = { min: 0, max: connections }
  switch (kindOf(engine)) {
    case 'postgres':
      return createKnex({ client: 'pg', connection: url, pool })
    case 'mysql':
      return createKnex({ client: 'mysql2', connection: url, pool })
    case 'sqlite':
      return createKnex({
        client: 'better-sqlite3',
        connection: { filename: url },
        useNullAsDefault: true,
        pool: {
          min: 1,
          max: 1,
          afterCreate: (database: ReturnType<typeof openSqlite>, done: (error: null, connection: unknown) => void) => {
            database.pragma('synchronous = full')
            done(null, database)
          },
        },
      })
  }
}

/** With PostgreSQL's placeholders. */
export function numbered(text: string): string {
  let number = 0
  return text.replaceAll('?', () => `$${++number}`)
}
