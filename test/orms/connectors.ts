import { MikroORM as MikroOrmSqlite } from '@mikro-orm/better-sqlite'
import type { EntityManager, IsolationLevel, MikroORM, Options } from '@mikro-orm/core'
import { MikroORM as MikroOrmMariadb } from '@mikro-orm/mariadb'
import { MikroORM as MikroOrmMysql } from '@mikro-orm/mysql'
import { MikroORM as MikroOrmPostgres } from '@mikro-orm/postgresql'
import { PrismaBetterSqlite3 } from '@prisma/adapter-better-sqlite3'
import { PrismaMariaDb } from '@prisma/adapter-mariadb'
import { PrismaPg } from '@prisma/adapter-pg'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzleMysql } from 'drizzle-orm/mysql2'
import { drizzle as drizzlePg } from 'drizzle-orm/node-postgres'
import { drizzle as drizzlePostgresJs } from 'drizzle-orm/postgres-js'
import { sql as raw } from 'drizzle-orm/sql'
import createKnex, { type Knex } from 'knex'
import mysql from 'mysql2/promise'
import postgres from 'postgres'
import { QueryTypes, Sequelize, type Options as SequelizeOptions, type Transaction } from 'sequelize'
import { DataSource, type DataSourceOptions, type EntityManager as TypeormManager } from 'typeorm'
import { fromDrizzle } from '../../src/adapters/drizzle.ts'
import { fromKnex } from '../../src/adapters/knex.ts'
import { fromMikroOrm } from '../../src/adapters/mikro-orm.ts'
import { fromPostgresJs } from '../../src/adapters/postgres-js.ts'
import { fromPrisma, type PrismaClient, type PrismaTransaction } from '../../src/adapters/prisma.ts'
import { fromSequelize } from '../../src/adapters/sequelize.ts'
import { fromTypeorm } from '../../src/adapters/typeorm.ts'
import type { Adapter } from '../../src/index.ts'
import { type ConnectOptions, createPgPool, type Isolation } from '../adapters.ts'
import { type OrmConnected, type OrmEngine, onServer, onSqlite } from './engines.ts'
import { generatedClient } from './prisma/generate.ts'

type Rows = Record<string, unknown>[]

/** For drivers that wait in the event loop's thread, as rowlock's guide to SQLite tells users. */
const BUSY_TIMEOUT_MS = 20

function over<Tx>(adapter: Adapter<Tx>, rest: Omit<OrmConnected, 'adapter'>): OrmConnected {
  return { adapter: adapter as Adapter<unknown>, ...rest }
}

/** Each makes a connection as a process of its own would. `url` is that of a server's database, or a file's path. */
export const ormConnectors = {
  'postgres.js'(url: string, { poolSize = 5 }: ConnectOptions = {}) {
    const sql = postgres(url, { max: poolSize, onnotice: () => undefined })
    return over(fromPostgresJs(sql), {
      db: sql,
      transaction: (body, isolation = 'read committed') =>
        sql.begin(`isolation level ${isolation}`, body) as Promise<never>,
      sql: async (text, tx) => [...(await ((tx as typeof sql | undefined) ?? sql).unsafe(text))],
      close: () => sql.end(),
    })
  },

  'knex-pg': (url: string, options?: ConnectOptions) => overKnex({ client: 'pg', connection: url }, options),
  'knex-mysql2': (url: string, options?: ConnectOptions) => overKnex({ client: 'mysql2', connection: url }, options),
  'knex-better-sqlite3': (filename: string) =>
    overKnex({
      client: 'better-sqlite3',
      connection: { filename },
      useNullAsDefault: true,
      pool: {
        afterCreate(database: { pragma(text: string): unknown }, done: () => void) {
          database.pragma('busy_timeout = 20')
          database.pragma('journal_mode = wal')
          done()
        },
      },
    }),

  'drizzle-node-postgres'(url: string, { poolSize = 5 }: ConnectOptions = {}) {
    const pool = createPgPool({ connectionString: url, max: poolSize })
    const db = drizzlePg(pool)
    return over(fromDrizzle(db), {
      db,
      transaction: (body, isolationLevel = 'read committed') => db.transaction(body, { isolationLevel }),
      sql: async (text, tx) => (await ((tx as typeof db | undefined) ?? db).execute(text)).rows,
      close: () => pool.end(),
    })
  },

  'drizzle-postgres.js'(url: string, { poolSize = 5 }: ConnectOptions = {}) {
    const client = postgres(url, { max: poolSize, onnotice: () => undefined })
    const db = drizzlePostgresJs(client)
    return over(fromDrizzle(db), {
      db,
      transaction: (body, isolationLevel = 'read committed') => db.transaction(body, { isolationLevel }),
      sql: async (text, tx) => [...(await ((tx as typeof db | undefined) ?? db).execute(text))],
      close: () => client.end(),
    })
  },

  'drizzle-mysql2'(url: string, { poolSize = 5 }: ConnectOptions = {}) {
    const pool = mysql.createPool({ uri: url, connectionLimit: poolSize })
    const db = drizzleMysql(pool)
    return over(fromDrizzle(db), {
      db,
      transaction: (body, isolationLevel = 'repeatable read') => db.transaction(body, { isolationLevel }),
      async sql(text, tx) {
        const [rows] = await ((tx as typeof db | undefined) ?? db).execute(text)
        return Array.isArray(rows) ? (rows as unknown as Rows) : []
      },
      close: () => pool.end(),
    })
  },

  /** Bodies of tests are asynchronous, Drizzle's transactions with this driver are not; so these are begun by hand. */
  'drizzle-better-sqlite3'(path: string) {
    const db = drizzleSqlite(path)
    db.$client.pragma('journal_mode = wal')
    return over(fromDrizzle(db), {
      db,
      async transaction(body) {
        db.run(raw`begin immediate`)
        try {
          const result = await body(db)
          db.run(raw`commit`)
          return result
        } catch (error) {
          db.run(raw`rollback`)
          throw error
        }
      },
      async sql(text) {
        if (/^select/.test(text)) return db.all(raw.raw(text))
        db.run(raw.raw(text))
        return []
      },
      close: async () => void db.$client.close(),
    })
  },

  async 'prisma-pg'(url: string, { poolSize = 5 }: ConnectOptions = {}) {
    return overPrisma('postgresql', new PrismaPg({ connectionString: url, max: poolSize }))
  },
  async 'prisma-mariadb'(url: string, { poolSize = 5 }: ConnectOptions = {}) {
    const { hostname, port, username, password, pathname } = new URL(url)
    return overPrisma(
      'mysql',
      new PrismaMariaDb({
        host: hostname,
        port: Number(port),
        user: username,
        password: decodeURIComponent(password),
        database: pathname.slice(1),
        connectionLimit: poolSize,
        allowPublicKeyRetrieval: true,
      }),
    )
  },
  async 'prisma-better-sqlite3'(path: string) {
    const connected = await overPrisma(
      'sqlite',
      new PrismaBetterSqlite3({ url: `file:${path}`, timeout: BUSY_TIMEOUT_MS }),
    )
    await connected.sql('pragma journal_mode = wal')
    return connected
  },

  'typeorm-postgres': (url: string, { poolSize = 5 }: ConnectOptions = {}) =>
    overTypeorm({ type: 'postgres', url, poolSize }),
  'typeorm-mysql': (url: string, { poolSize = 5 }: ConnectOptions = {}) =>
    overTypeorm({ type: 'mysql', url, poolSize }),
  'typeorm-mariadb': (url: string, { poolSize = 5 }: ConnectOptions = {}) =>
    overTypeorm({ type: 'mariadb', url, poolSize }),
  'typeorm-better-sqlite3': (path: string) => overTypeorm({ type: 'better-sqlite3', database: path, enableWAL: true }),

  'sequelize-postgres': (url: string, { poolSize = 5 }: ConnectOptions = {}) =>
    overSequelize(url, { pool: { max: poolSize } }),
  'sequelize-mysql': (url: string, { poolSize = 5 }: ConnectOptions = {}) =>
    overSequelize(url, { pool: { max: poolSize } }),
  'sequelize-mariadb': (url: string, { poolSize = 5 }: ConnectOptions = {}) =>
    overSequelize(url.replace(/^mysql:/, 'mariadb:'), { pool: { max: poolSize } }),
  async 'sequelize-sqlite'(path: string) {
    const connected = overSequelize(`sqlite:${path}`, {})
    await connected.sql('pragma journal_mode = wal')
    return connected
  },

  'mikro-orm-postgresql': async (url: string, { poolSize = 5 }: ConnectOptions = {}) =>
    overMikroOrm(await MikroOrmPostgres.init(mikroOrmOptions({ clientUrl: url, pool: { min: 0, max: poolSize } }))),
  'mikro-orm-mysql': async (url: string, { poolSize = 5 }: ConnectOptions = {}) =>
    overMikroOrm(await MikroOrmMysql.init(mikroOrmOptions({ clientUrl: url, pool: { min: 0, max: poolSize } }))),
  'mikro-orm-mariadb': async (url: string, { poolSize = 5 }: ConnectOptions = {}) =>
    overMikroOrm(await MikroOrmMariadb.init(mikroOrmOptions({ clientUrl: url, pool: { min: 0, max: poolSize } }))),
  async 'mikro-orm-better-sqlite'(path: string) {
    const orm = await MikroOrmSqlite.init(
      mikroOrmOptions({
        dbName: path,
        pool: {
          afterCreate(database: unknown, done: () => void) {
            ;(database as { pragma(text: string): unknown }).pragma(`busy_timeout = ${BUSY_TIMEOUT_MS}`)
            ;(database as { pragma(text: string): unknown }).pragma('journal_mode = wal')
            done()
          },
        },
      }),
    )
    return overMikroOrm(orm)
  },
} satisfies Record<string, (url: string, options?: ConnectOptions) => OrmConnected | Promise<OrmConnected>>

function overKnex(config: Knex.Config, { poolSize = 5 }: ConnectOptions = {}): OrmConnected {
  const pool = config.client === 'better-sqlite3' ? config.pool : { min: 0, max: poolSize }
  // It would tell of statements that still wait for a connection when a test closes the pool.
  const log = { warn: () => undefined, error: () => undefined }
  const knex = createKnex({ ...config, pool: pool ?? {}, log })
  return over(fromKnex(knex), {
    db: knex,
    transaction: (body, isolationLevel) =>
      knex.transaction(body, isolationLevel === undefined ? {} : { isolationLevel }),
    async sql(text, tx) {
      const answer = await ((tx as Knex | undefined) ?? knex).raw(text)
      if (config.client === 'mysql2') return Array.isArray(answer[0]) ? (answer[0] as Rows) : []
      return (config.client === 'pg' ? answer.rows : answer) as Rows
    },
    close: () => knex.destroy(),
  })
}

async function overPrisma(provider: 'postgresql' | 'mysql' | 'sqlite', driverAdapter: object): Promise<OrmConnected> {
  const { PrismaClient: Client } = await generatedClient(provider)
  const prisma = new Client({ adapter: driverAdapter }) as PrismaClient & { $disconnect(): Promise<void> }
  const levels = {
    'read committed': 'ReadCommitted',
    'repeatable read': 'RepeatableRead',
    serializable: 'Serializable',
  }
  return over(fromPrisma(prisma), {
    db: prisma,
    transaction: (body, isolation) =>
      prisma.$transaction(body, {
        maxWait: 20_000,
        timeout: 60_000,
        ...(isolation && { isolationLevel: levels[isolation] }),
      }),
    async sql(text, tx) {
      const client = (tx as PrismaTransaction | undefined) ?? prisma
      if (/^(select|pragma)/.test(text)) return client.$queryRawUnsafe<Rows>(text)
      await client.$executeRawUnsafe(text)
      return []
    },
    close: () => prisma.$disconnect(),
  })
}

async function overTypeorm(options: DataSourceOptions): Promise<OrmConnected> {
  const dataSource = await new DataSource(options).initialize()
  return over(fromTypeorm(dataSource), {
    db: dataSource,
    transaction: (body, isolation) =>
      isolation === undefined
        ? dataSource.transaction(body)
        : dataSource.transaction(isolation.toUpperCase() as Uppercase<Isolation>, body),
    async sql(text, tx) {
      const answer = await ((tx as TypeormManager | undefined) ?? dataSource).query(text)
      return Array.isArray(answer) ? answer : []
    },
    close: () => dataSource.destroy(),
  })
}

function overSequelize(url: string, options: SequelizeOptions): OrmConnected {
  const sequelize = new Sequelize(url, { logging: false, ...options })
  return over(fromSequelize(sequelize), {
    db: sequelize,
    transaction: (body, isolation) =>
      sequelize.transaction(
        isolation === undefined ? {} : { isolationLevel: isolation.toUpperCase() as Transaction.ISOLATION_LEVELS },
        body,
      ),
    async sql(text, tx) {
      const options = { transaction: (tx as Transaction | undefined) ?? null }
      if (/^select/.test(text)) return sequelize.query<Rows[0]>(text, { ...options, type: QueryTypes.SELECT })
      await sequelize.query(text, options)
      return []
    },
    close: () => sequelize.close(),
  })
}

/** No entities: nothing is to be discovered. */
function mikroOrmOptions(options: Options): Options {
  return { entities: [], discovery: { warnWhenNoEntities: false }, ...options } as Options
}

function overMikroOrm(orm: MikroORM): OrmConnected {
  return over(fromMikroOrm(orm), {
    db: orm,
    transaction: (body, isolation) =>
      orm.em.fork().transactional(body, isolation === undefined ? {} : { isolationLevel: isolation as IsolationLevel }),
    async sql(text, tx) {
      const em = (tx as EntityManager | undefined) ?? orm.em
      const connection = orm.em.getConnection() as unknown as {
        execute(text: string, values: [], method: 'all', transaction: unknown): Promise<unknown>
      }
      const rows = await connection.execute(text, [], 'all', em.getTransactionContext())
      return Array.isArray(rows) ? rows : []
    },
    close: () => orm.close(),
  })
}

export type Orm = 'postgres.js' | 'Knex' | 'Drizzle' | 'Prisma' | 'TypeORM' | 'Sequelize' | 'MikroORM'

/** What these adapters are proven on. */
export function ormEngines(orm: Orm): OrmEngine[] {
  switch (orm) {
    case 'postgres.js':
      return [
        ...onServer(orm, ormConnectors['postgres.js'], 'postgres18'),
        ...onServer(orm, ormConnectors['postgres.js'], 'postgres15'),
      ]
    case 'Knex':
      return [
        ...onServer(orm, ormConnectors['knex-pg'], 'postgres18'),
        ...onServer(orm, ormConnectors['knex-mysql2'], 'mysql'),
        ...onServer(orm, ormConnectors['knex-mysql2'], 'mariadb'),
        onSqlite(orm, ormConnectors['knex-better-sqlite3']),
      ]
    case 'Drizzle':
      return [
        ...onServer('Drizzle (node-postgres)', ormConnectors['drizzle-node-postgres'], 'postgres18'),
        ...onServer('Drizzle (postgres.js)', ormConnectors['drizzle-postgres.js'], 'postgres18'),
        ...onServer('Drizzle (mysql2)', ormConnectors['drizzle-mysql2'], 'mysql'),
        ...onServer('Drizzle (mysql2)', ormConnectors['drizzle-mysql2'], 'mariadb'),
        onSqlite('Drizzle (better-sqlite3)', ormConnectors['drizzle-better-sqlite3']),
      ]
    case 'Prisma':
      return [
        ...onServer(orm, ormConnectors['prisma-pg'], 'postgres18'),
        ...onServer(orm, ormConnectors['prisma-mariadb'], 'mysql'),
        ...onServer(orm, ormConnectors['prisma-mariadb'], 'mariadb'),
        onSqlite(orm, ormConnectors['prisma-better-sqlite3']),
      ]
    case 'TypeORM':
      return [
        ...onServer(orm, ormConnectors['typeorm-postgres'], 'postgres18'),
        ...onServer(orm, ormConnectors['typeorm-mysql'], 'mysql'),
        ...onServer(orm, ormConnectors['typeorm-mariadb'], 'mariadb'),
        onSqlite(orm, ormConnectors['typeorm-better-sqlite3']),
      ]
    case 'Sequelize':
      return [
        ...onServer(orm, ormConnectors['sequelize-postgres'], 'postgres18'),
        ...onServer(orm, ormConnectors['sequelize-mysql'], 'mysql'),
        ...onServer(orm, ormConnectors['sequelize-mariadb'], 'mariadb'),
        onSqlite(orm, ormConnectors['sequelize-sqlite']),
      ]
    case 'MikroORM':
      return [
        ...onServer(orm, ormConnectors['mikro-orm-postgresql'], 'postgres18'),
        ...onServer(orm, ormConnectors['mikro-orm-mysql'], 'mysql'),
        ...onServer(orm, ormConnectors['mikro-orm-mariadb'], 'mariadb'),
        onSqlite(orm, ormConnectors['mikro-orm-better-sqlite']),
      ]
  }
}
