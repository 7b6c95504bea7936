import type { MikroORM as MikroOrmSqlite } from '@mikro-orm/better-sqlite'
import type { MikroORM, EntityManager as MikroOrmManager } from '@mikro-orm/core'
import type { MikroORM as MikroOrmMariadb } from '@mikro-orm/mariadb'
import type { MikroORM as MikroOrmMysql } from '@mikro-orm/mysql'
import type { MikroORM as MikroOrmPostgres } from '@mikro-orm/postgresql'
import type { Sequelize, Transaction } from 'sequelize'
import type { DataSource, EntityManager, QueryRunner } from 'typeorm'
import { expectTypeOf, it } from 'vitest'
import { fromMikroOrm } from '../../src/adapters/mikro-orm.ts'
import { fromSequelize } from '../../src/adapters/sequelize.ts'
import { fromTypeorm } from '../../src/adapters/typeorm.ts'
import { createLocks, type Locks } from '../../src/index.ts'

// Read by the compiler only: these fail in `npm run check` when the types of an ORM move away from ours. Prisma's types
// are generated: see prisma/types.ts.

/** What guards of these locks take. */
type TransactionOf<L> = L extends Locks<infer Tx> ? Tx : never

it('fromTypeorm takes a DataSource, and its guards take an EntityManager or a QueryRunner', () => {
  const locks = (dataSource: DataSource) => createLocks(fromTypeorm(dataSource))
  type Tx = TransactionOf<ReturnType<typeof locks>>
  expectTypeOf<EntityManager>().toExtend<Tx>()
  expectTypeOf<QueryRunner>().toExtend<Tx>()
  expectTypeOf<DataSource>().not.toExtend<Tx>()
  expectTypeOf<string>().not.toExtend<Tx>()
  // @ts-expect-error
  ;(manager: EntityManager) => fromTypeorm(manager)
})

it('fromSequelize takes a Sequelize, and its guards take a Transaction', () => {
  const locks = (sequelize: Sequelize) => createLocks(fromSequelize(sequelize))
  type Tx = TransactionOf<ReturnType<typeof locks>>
  expectTypeOf<Transaction>().toExtend<Tx>()
  expectTypeOf<Sequelize>().not.toExtend<Tx>()
  expectTypeOf<string>().not.toExtend<Tx>()
  // @ts-expect-error
  ;(tx: Transaction) => fromSequelize(tx)
})

it('fromMikroOrm takes a MikroORM of any SQL driver, and its guards take an EntityManager', () => {
  const locks = (orm: MikroORM) => createLocks(fromMikroOrm(orm))
  type Tx = TransactionOf<ReturnType<typeof locks>>
  expectTypeOf<MikroOrmManager>().toExtend<Tx>()
  expectTypeOf<MikroORM>().not.toExtend<Tx>()
  expectTypeOf<string>().not.toExtend<Tx>()
  type Taken = Parameters<typeof fromMikroOrm>[0]
  expectTypeOf<MikroOrmPostgres>().toExtend<Taken>()
  expectTypeOf<MikroOrmMysql>().toExtend<Taken>()
  expectTypeOf<MikroOrmMariadb>().toExtend<Taken>()
  expectTypeOf<MikroOrmSqlite>().toExtend<Taken>()
  // @ts-expect-error
  ;(em: MikroOrmManager) => fromMikroOrm(em)
})

it('refuses what is no transaction, as code is written', () => {
  const written = async (dataSource: DataSource, sequelize: Sequelize, orm: MikroOrmPostgres) => {
    const lease = await createLocks(fromTypeorm(dataSource)).acquire('x')
    await dataSource.transaction((manager) => lease.guard(manager))
    await dataSource.transaction('SERIALIZABLE', (manager) => lease.guard(() => manager))
    // @ts-expect-error
    await lease.guard('tx')
    // @ts-expect-error
    await lease.guard(dataSource)

    const viaSequelize = createLocks(fromSequelize(sequelize))
    await sequelize.transaction((tx) => viaSequelize.within(tx).acquire('x'))
    // @ts-expect-error
    viaSequelize.within(sequelize)

    const viaMikroOrm = createLocks(fromMikroOrm(orm))
    await orm.em.transactional((em) => viaMikroOrm.within(em).acquire('x'))
    // @ts-expect-error
    viaMikroOrm.within(orm)
  }
  expectTypeOf(written).toBeFunction()
})
