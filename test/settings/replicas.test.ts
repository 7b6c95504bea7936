import { MikroORM as MikroOrmMysql } from '@mikro-orm/mysql'
import { MikroORM as MikroOrmPostgres } from '@mikro-orm/postgresql'
import { PrismaPg } from '@prisma/adapter-pg'
import { withReplicas as withMysqlReplicas } from 'drizzle-orm/mysql-core'
import { drizzle as drizzleMysql } from 'drizzle-orm/mysql2'
import { drizzle as drizzlePg } from 'drizzle-orm/node-postgres'
import { withReplicas as withPgReplicas } from 'drizzle-orm/pg-core'
import mysql from 'mysql2/promise'
import { Sequelize } from 'sequelize'
import { DataSource } from 'typeorm'
import { afterEach, beforeEach, describe, expect, inject, it } from 'vitest'
import { fromDrizzle } from '../../src/adapters/drizzle.ts'
import { fromMikroOrm } from '../../src/adapters/mikro-orm.ts'
import { fromPrisma, type PrismaClient } from '../../src/adapters/prisma.ts'
import { fromSequelize } from '../../src/adapters/sequelize.ts'
import { fromTypeorm } from '../../src/adapters/typeorm.ts'
import type { Adapter } from '../../src/index.ts'
import { createPgPool } from '../adapters.ts'
import { createDatabase, type TestDatabase } from '../connect.ts'
import { generatedClient } from '../orms/prisma/generate.ts'
import { type Setup, useEverything } from './use.ts'

/**
 * The replica is another database, which has nothing of rowlock's: a statement that is sent there fails, or finds nothing. What
 * the application reads does go there, or the setup would prove nothing.
 */
interface Replicated extends Setup {
  /** The name of the database in which the application's own reads end up. */
  readsFrom(): Promise<unknown>
}

type Connect = (primary: string, replica: string) => Promise<Replicated>

function replicated<Tx>(adapter: Adapter<Tx>, rest: Omit<Replicated, 'adapter'>): Replicated {
  return { adapter: adapter as Adapter<unknown>, ...rest }
}

const CURRENT = { postgres: 'select current_database() as name', mysql: 'select database() as name' }

function overSequelize(dialect: 'postgres' | 'mysql' | 'mariadb'): Connect {
  return async (primary, replica) => {
    const server = (url: string) => {
      const { hostname: host, port, username, password, pathname } = new URL(url)
      return { host, port, username, password: decodeURIComponent(password), database: pathname.slice(1) }
    }
    const replication = { write: server(primary), read: [server(replica)] }
    const sequelize = new Sequelize({ dialect, logging: false, replication })
    return replicated(fromSequelize(sequelize), {
      transaction: (body) => sequelize.transaction(body),
      async readsFrom() {
        const text = dialect === 'postgres' ? CURRENT.postgres : CURRENT.mysql
        const [row] = await sequelize.query<{ name: string }>(text, { type: 'SELECT' as never })
        return row?.name
      },
      close: () => sequelize.close(),
    })
  }
}

function overTypeorm(type: 'postgres' | 'mysql'): Connect {
  return async (primary, replica) => {
    const replication = { defaultMode: 'slave' as const, master: { url: primary }, slaves: [{ url: replica }] }
    const dataSource = await new DataSource({ type, replication }).initialize()
    return replicated(fromTypeorm(dataSource), {
      transaction: (body) => dataSource.transaction(body),
      async readsFrom() {
        const runner = dataSource.createQueryRunner('slave')
        const [row] = await runner.query(CURRENT[type])
        await runner.release()
        return row.name
      },
      close: () => dataSource.destroy(),
    })
  }
}

function overMikroOrm(engine: 'postgres' | 'mysql'): Connect {
  return async (primary, replica) => {
    const common = { entities: [], discovery: { warnWhenNoEntities: false }, preferReadReplicas: true }
    const options = { ...common, clientUrl: primary, replicas: [{ clientUrl: replica }] }
    const orm = engine === 'postgres' ? await MikroOrmPostgres.init(options) : await MikroOrmMysql.init(options)
    return replicated(fromMikroOrm(orm), {
      transaction: (body) => orm.em.fork().transactional(body),
      async readsFrom() {
        const connection = orm.em.getConnection('read') as { execute(text: string): Promise<{ name: string }[]> }
        return (await connection.execute(CURRENT[engine]))[0]?.name
      },
      close: () => orm.close(),
    })
  }
}

const drizzlePostgres: Connect = async (primary, replica) => {
  const pools = [primary, replica].map((connectionString) => createPgPool({ connectionString }))
  const db = withPgReplicas(drizzlePg(pools[0]!), [drizzlePg(pools[1]!)])
  return replicated(fromDrizzle(db), {
    transaction: (body) => db.transaction(body),
    readsFrom: async () => (await db.$replicas[0]!.execute(CURRENT.postgres)).rows[0]?.name,
    close: () => Promise.all(pools.map((pool) => pool.end())),
  })
}

const drizzleOnMysql: Connect = async (primary, replica) => {
  const pools = [primary, replica].map((uri) => mysql.createPool({ uri }))
  const db = withMysqlReplicas(drizzleMysql(pools[0]!), [drizzleMysql(pools[1]!)])
  return replicated(fromDrizzle(db), {
    transaction: (body) => db.transaction(body),
    readsFrom: async () => {
      const [rows] = await db.$replicas[0]!.execute(CURRENT.mysql)
      return (rows as unknown as { name: string }[])[0]?.name
    },
    close: () => Promise.all(pools.map((pool) => pool.end())),
  })
}

/** As @prisma/extension-read-replicas does it, but raw queries go to the replica, too, as other extensions have it. */
const prismaPostgres: Connect = async (primary, replica) => {
  const { PrismaClient: Client } = await generatedClient('postgresql')
  type Raw = PrismaClient & { $disconnect(): Promise<void>; $extends(extension: object): Raw }
  const [writes, reads] = [primary, replica].map(
    (connectionString) => new Client({ adapter: new PrismaPg({ connectionString }) }) as unknown as Raw,
  )
  const extended = writes!.$extends({
    client: { $primary: () => writes },
    query: {
      $allOperations({ operation, args, query, __internalParams }: Operation) {
        if (__internalParams?.transaction || operation !== '$queryRawUnsafe') return query(args)
        return reads!.$queryRawUnsafe(...(args as [string]))
      },
    },
  })
  return replicated(fromPrisma(extended), {
    transaction: (body) => extended.$transaction(body),
    readsFrom: async () => (await extended.$queryRawUnsafe<{ name: string }[]>(`${CURRENT.postgres}`))[0]?.name,
    close: () => Promise.all([writes!.$disconnect(), reads!.$disconnect()]),
  })
}

interface Operation {
  readonly operation: string
  readonly args: unknown[]
  readonly query: (args: unknown[]) => Promise<unknown>
  readonly __internalParams?: { readonly transaction?: unknown }
}

const setups: Record<'postgres' | 'mysql', Record<string, Connect>> = {
  postgres: {
    Sequelize: overSequelize('postgres'),
    TypeORM: overTypeorm('postgres'),
    MikroORM: overMikroOrm('postgres'),
    Drizzle: drizzlePostgres,
    Prisma: prismaPostgres,
  },
  mysql: {
    Sequelize: overSequelize('mysql'),
    'Sequelize with the driver mariadb': overSequelize('mariadb'),
    TypeORM: overTypeorm('mysql'),
    MikroORM: overMikroOrm('mysql'),
    Drizzle: drizzleOnMysql,
  },
}

for (const server of inject('servers').filter(({ name }) => name !== 'postgres15')) {
  describe(`with a replica of ${server.name}`, () => {
    let primary: TestDatabase
    let replica: TestDatabase
    beforeEach(async () => {
      primary = await createDatabase(server)
      replica = await createDatabase(server)
    })
    afterEach(async () => {
      await primary.drop()
      await replica.drop()
    })

    const connects = setups[server.engine as 'postgres' | 'mysql']
    it.each(Object.keys(connects))('every statement of rowlock goes to the primary: %s', async (orm) => {
      const setup = await connects[orm]!(primary.url, replica.url)
      try {
        expect(await setup.readsFrom()).toBe(new URL(replica.url).pathname.slice(1))
        await useEverything(setup)
      } finally {
        await setup.close()
      }
    })
  })
}
